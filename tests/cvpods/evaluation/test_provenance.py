"""Provenance of results, and their folders."""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

import cvpods
from cvpods.checkpoint.origin import Origin, origin_of
from cvpods.engine.testing import results_folder
from cvpods.evaluation.provenance import describe, provenance, read_provenance, write_results
from cvpods.tools import detectors
from cvpods.tools.results import choose_results, find_results
from cvpods.utils.errors import DataError
from cvpods.utils.visualize import add_caption


def config_of(folder: Path, datasets: tuple[str, ...] = ("val",), aug: bool = False):
    aug_group = SimpleNamespace(ENABLED=aug)
    return SimpleNamespace(
        OUTPUT_DIR=str(folder),
        TEST=SimpleNamespace(AUG=aug_group),
        DATASETS=SimpleNamespace(TEST=datasets),
    )


# -- weights ---------------------------------------------------------------------------------------


def test_origin_of_a_file(tmp_path):
    """Hash the file's bytes; its entry "iteration" counts from 0."""
    path = tmp_path / "x.pth"
    path.write_bytes(b"weights")
    origin = Origin.of_file(path, {"iteration": 99}, ["cat", "dog"])
    digits = hashlib.sha256(b"weights").hexdigest()[:8]
    assert origin == Origin(str(path), path, digits, 100, ("cat", "dog"))


@pytest.mark.parametrize("names", [None, "cats", [1, 2], {"cat": 1}])
def test_names_that_are_not_texts_count_as_none(tmp_path, names):
    (tmp_path / "x.pth").write_bytes(b"")
    assert Origin.of_file(tmp_path / "x.pth", {"iteration": "9"}, names) == Origin(
        str(tmp_path / "x.pth"), tmp_path / "x.pth", hashlib.sha256(b"").hexdigest()[:8]
    )


def test_graphs_have_an_origin(tmp_path, monkeypatch):
    (tmp_path / "x.onnx").write_bytes(b"graph")
    load = lambda cfg, build, path: (nn.Linear(1, 1), ["cat", "dog"])  # noqa: E731
    monkeypatch.setattr(detectors, "resolve", {"graphs:load": load}.get)
    monkeypatch.setattr(detectors, "GRAPH_FILES", {".onnx": "graphs:load"})
    model, names = detectors.load_detector(None, None, tmp_path / "x.onnx")
    assert names == ["cat", "dog"]
    origin = origin_of(model)
    assert origin.class_names == ("cat", "dog")
    assert origin.sha256 == hashlib.sha256(b"graph").hexdigest()[:8]


def test_folder_of_results(tmp_path):
    own, other = tmp_path / "model_final.pth", tmp_path / "theirs.pth"
    own.write_bytes(b"a")
    other.write_bytes(b"b")
    digits = hashlib.sha256(b"b").hexdigest()[:8]
    cfg = config_of(tmp_path)
    plain = tmp_path / "inference"
    assert results_folder(cfg, Origin.of_file(own), own) == plain
    assert results_folder(cfg, Origin.of_file(tmp_path / "." / "model_final.pth"), own) == plain
    assert results_folder(cfg, Origin.of_file(other), own) == plain / f"of_theirs_{digits}"
    assert results_folder(cfg, Origin.of_file(other), None) == plain / f"of_theirs_{digits}"
    assert results_folder(cfg, Origin("timm://resnet18"), own) == plain / "of_timm_resnet18"
    cfg.TEST.AUG.ENABLED = True
    assert results_folder(cfg, Origin.of_file(own), own) == tmp_path / "inference_TTA"


# -- the entry -------------------------------------------------------------------------------------


class Data:
    """Data set of three images with 2, 0 and 1 boxes."""

    meta = SimpleNamespace(json_file="/data/val.json")
    datasets = [SimpleNamespace(dataset_dicts=[{"annotations": [1, 2]}, {}, {"annotations": [3]}])]

    def __len__(self):
        return 3


def test_entry(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/venv/bin/pods_test", "MODEL.WEIGHTS", "my x.pth"])
    origin = Origin("my x.pth", Path("my x.pth"), "0123abcd", 100)
    entry = provenance(origin, {"val": Data()})
    date = datetime.fromisoformat(entry.pop("date"))
    assert date.utcoffset() == timedelta(0)
    assert abs(date - datetime.now(timezone.utc)) < timedelta(minutes=5)
    commit = entry.pop("commit")
    assert re.fullmatch(r"|[0-9a-f]{12,40}(-dirty)?", commit)
    assert entry == {
        "weights": {"path": "my x.pth", "sha256": "0123abcd", "iteration": 100},
        "datasets": {"val": {"annotations": "/data/val.json", "images": 3, "boxes": 3}},
        "version": cvpods.__version__,
        "command": "pods_test MODEL.WEIGHTS 'my x.pth'",
    }


def test_results_keep_their_layout(tmp_path):
    entry = provenance(Origin("x.pth", None, "0123abcd"), {"val": Data()})
    write_results(tmp_path / "new", {"bbox": {"AP": 1.0, "APs": float("nan")}}, entry)
    content = json.loads((tmp_path / "new" / "results.json").read_text())
    assert content == {"bbox": {"AP": 1.0, "APs": None}, "provenance": entry}
    assert read_provenance(tmp_path / "new") == entry
    text = "\n".join(describe(entry, ["val"]))
    for part in ("x.pth (sha256 0123abcd)", "/data/val.json, 3 images, 3 boxes", entry["date"]):
        assert part in text


@pytest.mark.parametrize("content", ["", "[]", '{"bbox": {}}', '{"provenance": {"weights": 1}}'])
def test_results_without_provenance(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    assert read_provenance(tmp_path) == {}


# -- results that a picture shows ------------------------------------------------------------------


def leave(folder: Path, time: int, names: tuple[str, ...] = ("val",), sha256: str = "") -> None:
    """Write the files of an evaluation with the given time."""
    entry = provenance(Origin("x.pth", None, sha256), dict.fromkeys(names, Data()))
    write_results(folder, {"bbox": {}}, entry)
    for name in names:
        own = folder if len(names) == 1 else folder / name
        own.mkdir(exist_ok=True)
        path = own / "coco_instances_results.json"
        path.write_text("[]")
        os.utime(path, (time, time))


def folders(found) -> list[str]:
    return [results.path.parent.name for results in found]


def test_results_are_found(tmp_path):
    """Prefer configured test-time augmentation, then the newest results; skip other data sets."""
    cfg = config_of(tmp_path)
    with pytest.raises(DataError, match="Run pods_test first.*--results"):
        choose_results(cfg, "val")
    leave(tmp_path / "inference_TTA", 400)
    assert folders([choose_results(cfg, "val")]) == ["inference_TTA"]
    leave(tmp_path / "inference", 100, sha256="aaaaaaaa")
    leave(tmp_path / "inference" / "of_x_bbbbbbbb", 200, sha256="bbbbbbbb")
    leave(tmp_path / "inference" / "of_y_cccccccc", 300, names=("other",))
    assert folders(find_results(cfg, "val")) == ["of_x_bbbbbbbb", "inference", "inference_TTA"]
    assert folders([choose_results(cfg, "val", sha256="aaaaaaaa")]) == ["inference"]
    assert folders([choose_results(cfg, "val", sha256="dddddddd")]) == ["of_x_bbbbbbbb"]
    assert folders(find_results(config_of(tmp_path, aug=True), "val"))[0] == "inference_TTA"
    assert folders(find_results(cfg, "other")) == ["of_y_cccccccc"]


def test_results_of_several_data_sets(tmp_path):
    leave(tmp_path / "inference", 100, names=("one", "two"))
    for name in ("one", "two"):
        assert folders(find_results(config_of(tmp_path, (name,)), name)) == [name]
    assert find_results(config_of(tmp_path), "val") == []


def test_results_of_earlier_versions(tmp_path):
    """Without results.json, the folder's name or a single data set identifies the results."""
    for folder in ("inference", "inference/one"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "coco_instances_results.json").write_text("[]")
    assert sorted(folders(find_results(config_of(tmp_path), "one"))) == ["inference", "one"]
    assert folders(find_results(config_of(tmp_path), "two")) == ["inference"]


def test_caption():
    """Two lines of 20 pixels and a margin of 14 below a red picture; the long one is broken."""
    picture = Image.new("RGB", (200, 50), "red")
    short = add_caption(picture, ["a", "b"])
    assert short.size == (200, 50 + 2 * 20 + 14)
    assert short.getpixel((0, 49)) == (255, 0, 0) and short.getpixel((0, 53)) == (255, 255, 255)
    assert min(short.crop((0, 50, 200, 104)).convert("L").tobytes()) < 128
    assert add_caption(picture, ["word " * 20]).height > short.height


# -- the commands ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_commands_write_provenance(experiment, run_command):
    """It is written after training and for other weights, read by pods_draw, never overwritten."""
    run_command(["pods_train"], experiment)
    output = experiment / "output"
    entry = json.loads((output / "inference/results.json").read_text())["provenance"]
    whole = hashlib.sha256((output / "model_final.pth").read_bytes()).hexdigest()
    assert entry["weights"]["iteration"] == 4 and entry["command"] == "pods_train"
    assert entry["weights"]["sha256"] in ("", whole[:8])
    run_command(["pods_test"], experiment)
    results = output / "inference/results.json"
    entry = json.loads(results.read_text())["provenance"]
    assert entry["weights"]["sha256"] == whole[:8] and entry["weights"]["iteration"] == 4
    report = (output / "inference/results.md").read_text()
    assert whole[:8] in report and "8 images" in report and "Command: pods_test" in report
    before = results.read_bytes()
    part = output / "model_iter_0000002.pth"
    digits = hashlib.sha256(part.read_bytes()).hexdigest()[:8]
    run_command(["pods_test", "MODEL.WEIGHTS", str(part)], experiment)
    own = output / f"inference/of_model_iter_0000002_{digits}"
    assert json.loads((own / "results.json").read_text())["provenance"]["weights"] == {
        "path": str(part),
        "sha256": digits,
        "iteration": 2,
    }
    assert results.read_bytes() == before
    done = run_command(["pods_draw", "--count", "2"], experiment)
    assert (own / "detections.png").is_file()
    assert str(output / "inference/coco_instances_results.json") in done.stderr
    run_command(["pods_draw", "--results", "nowhere.json"], experiment, status=1)


@pytest.mark.slow
def test_pods_draw_finds_results_of_several_sets_and_scales(experiment, run_command):
    torch.manual_seed(0)
    run_command(["pods_train", "TEST.EVAL_PERIOD", "-1"], experiment)
    output = experiment / "output"
    both = "('shapes_train', 'shapes_val')"
    run_command(["pods_test", "DATASETS.TEST", both], experiment)
    run_command(["pods_draw", "--count", "2"], experiment)
    assert (output / "inference/shapes_val/detections.png").is_file()
    run_command(["pods_draw", "--count", "2", "DATASETS.TEST", both], experiment)
    assert (output / "inference/shapes_train/detections.png").is_file()
    scales = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)"]
    run_command(["pods_test", *scales], experiment)
    run_command(["pods_draw", "--count", "2", *scales], experiment)
    assert (output / "inference_TTA/detections.png").is_file()
