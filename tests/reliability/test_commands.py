"""pods_check, pods_debug; damaged data, bad numbers, full disks and leaks in a training."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch

from cvpods.engine import DefaultRunner
from cvpods.tools.experiment import load_experiment
from tests import command_server
from tests.conftest import command_environment, wrap_net

NO_TEST = ["TEST.EVAL_PERIOD", "-1"]


@pytest.fixture
def damaged_root(tmp_path, shapes_root) -> Path:
    """Copy the shapes; remove an image, cut another short, and set the width of a box to 0."""
    root = tmp_path / "damaged"
    shutil.copytree(shapes_root, root)
    (annotations,) = (root / "shapes").rglob("*train*.json")
    content = json.loads(annotations.read_text())
    files = {path.name: path for path in root.rglob("*.jpg") if "train" in path.parent.name}
    names = [files[Path(image["file_name"]).name] for image in content["images"]]
    names[5].unlink()
    names[6].write_bytes(names[6].read_bytes()[:200])
    content["annotations"][8]["bbox"][2] = 0
    annotations.write_text(json.dumps(content))
    return root


@pytest.mark.slow
def test_pods_check(experiment, damaged_root, run_command):
    """Table and exit status; --fix writes a file that has nothing wrong."""
    data = {"CVPODS_DATASETS": str(damaged_root)}
    words = ["pods_check", "--dataset", "shapes_train"]
    found = run_command([*words, "--fix", "fixed.json"], experiment, status=1, **data).stdout
    for kind in ("missing file", "corrupt file", "zero or negative box"):
        assert kind in found, found
    (folder,) = {p.parent for p in damaged_root.rglob("*.jpg") if "train" in p.parent.name}
    fixed = ["pods_check", "--json", "fixed.json", "--images", str(folder), "--num-classes", "6"]
    assert "22 images" in run_command(fixed, experiment).stdout
    itself = [*fixed, "--fix", "fixed.json"]
    assert "is the file that is examined" in run_command(itself, experiment, status=1).stderr


@pytest.mark.slow
def test_training_replaces_corrupt_images(experiment, damaged_root, run_command):
    """2 of 23 images with boxes: named once each and replaced; with a share of 0 it is refused."""
    data = {"CVPODS_DATASETS": str(damaged_root)}
    words = ["pods_train", *NO_TEST, "SOLVER.LR_SCHEDULER.MAX_ITER", "14"]
    share = "DATALOADER.MAX_CORRUPT_SHARE"
    said = run_command([*words, share, "0.1"], experiment, **data).stderr
    assert said.count("Another image takes its place") == 2
    assert said.count("Data check") == 1 and "zero or negative box" in said
    refused = run_command([*words, share, "0"], experiment, status=1, **data).stderr
    assert "refuses 'shapes_train': missing file: " in refused and "corrupt file: " in refused
    assert "Traceback" not in refused and "iterations are done" not in refused


_LOSES_IMAGES = """
from pathlib import Path
from cvpods.data.datasets import paths
from net_of_experiment import build_model as build


def build_model(cfg):
    folder, _, _ = paths.entry("shapes_train")
    for file in sorted(paths.resolve(folder, "").glob("*.jpg"))[:4]:
        file.unlink()
    return build(cfg)
"""


@pytest.mark.slow
def test_images_that_vanish_while_training(
    experiment, damaged_root, run_command, shapes_root, tmp_path
):
    """More of them than MAX_CORRUPT_SHARE allows: what is done is saved."""
    root = tmp_path / "whole"
    shutil.copytree(shapes_root, root)
    wrap_net(experiment, _LOSES_IMAGES)
    words = ["pods_train", *NO_TEST, "SOLVER.LR_SCHEDULER.MAX_ITER", "30"]
    ended = run_command(words, experiment, status=1, CVPODS_DATASETS=str(root)).stderr
    assert "training images cannot be used" in ended and "Traceback" not in ended
    assert "iterations are done and saved" in ended


_NAN = """
import torch
from net_of_experiment import build_model as build


def build_model(cfg):
    model = build(cfg)
    losses = model.losses
    calls = []

    def spoilt(predictions, priors, targets):
        calls.append(1)
        found = losses(predictions, priors, targets)
        if any(float(t.gt_boxes.tensor[:, 0].max()) > 60 for t in targets if len(t)):
            found["loss_cls"] = found["loss_cls"] * float("nan")
        return found

    model.losses = spoilt
    return model
"""


@pytest.mark.slow
def test_divergence_and_replay(experiment, run_command):
    """Images with a box right of x = 60 have a NaN loss: the replay names them."""
    wrap_net(experiment, _NAN)
    said = run_command(["pods_train", *NO_TEST], experiment, status=1).stderr
    assert "The loss became infinite or NaN at iteration" in said and "Traceback" not in said
    (dump,) = (experiment / "output").glob("nonfinite_*.pt")
    assert f"pods_debug replay {dump}" in said
    shown = run_command(["pods_debug", "replay", str(dump)], experiment).stdout
    assert "The replay gives the same losses." in shown and "cause: divergence" in shown
    rows = [line for line in shown.splitlines() if ".png" in line or ".jpg" in line]
    assert len(rows) == 4 and rows[0].rstrip().endswith("nan")
    wrong = run_command(["pods_debug", "replay", "config.py"], experiment, status=1)
    assert "Traceback" not in wrong.stderr
    assert "usage" in run_command(["pods_debug"], experiment, status=2).stderr


@pytest.mark.slow
@pytest.mark.parametrize("limit", [3_000_000])
def test_full_disk(limit, experiment, shapes_root, programs):
    """Files cannot grow beyond the limit: one message, and what was there is whole."""
    environment = command_environment(shapes_root)
    words = ["pods_train", *NO_TEST]
    process = command_server.start(programs, words, experiment, environment, file_size=limit)
    text = process.stderr.read()
    assert process.wait() == 1
    assert "error: " in text and ("cannot be written" in text or "No space is left" in text)
    assert "--resume continues" in text
    output = experiment / "output"
    assert not list(output.glob("*.pth")) and not list(output.glob(".*.tmp"))


@pytest.mark.slow
def test_nothing_grows(experiment, shapes_root, monkeypatch):
    """Resident memory and the number of tensors, once warm and 50 iterations later.

    With CVPODS_FUZZ=full, after 100 and 2,000 iterations, as docs/reliability.md reports.
    """
    first, last = (100, 2000) if os.environ.get("CVPODS_FUZZ") == "full" else (30, 80)
    monkeypatch.setenv("CVPODS_DATASETS", str(shapes_root))
    config, build_model = load_experiment(experiment)
    config.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "1"])
    config.merge_from_list(["SOLVER.IMS_PER_DEVICE", "1", "GLOBAL.LOG_INTERVAL", "100", *NO_TEST])
    config.merge_from_list(
        ["SOLVER.CHECKPOINT_PERIOD", "-1", "SOLVER.LR_SCHEDULER.MAX_ITER", str(last)]
    )
    config.merge_from_list(["INPUT.AUG.TRAIN_PIPELINES", str(SMALL)])
    config.OUTPUT_DIR = str(experiment)
    seen = {}

    class Watched(DefaultRunner):
        def after_step(self) -> None:
            super().after_step()
            if self.iter + 1 in (first, last):
                gc.collect()
                tensors = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
                seen[self.iter + 1] = tensors, resident_mib()

    Watched(config, build_model).train()
    assert seen[last][0] <= seen[first][0]
    assert seen[last][1] - seen[first][1] < 16, seen


SMALL = [("ResizeShortestEdge", {"short_edge_length": (40,), "max_size": 64})]


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


_MOVES_AN_IMAGE = """
import os
from cvpods.utils import comm
from net_of_experiment import build_model as build


def build_model(cfg):
    if comm.is_main_process():  # which has checked the data before
        os.rename({image!r}, {away!r})
    return build(cfg)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", ["1", "2"])
def test_an_evaluation_that_fails(count, experiment, shapes_root, tmp_path, run_command):
    """One validation image vanishes after the start: the evaluation after 2 of 4 iterations fails
    and training continues; the last one fails the command, with model_final there. With the image
    back, --resume makes the last one up. Two processes: the image is in one rank's share.
    """
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    (folder,) = {path.parent for path in root.rglob("*.jpg") if "val" in path.parent.name}
    image = sorted(folder.iterdir())[-1]
    whole = (experiment / "net.py").read_text()
    wrap_net(experiment, _MOVES_AN_IMAGE.format(image=str(image), away=str(tmp_path / "away")))
    data = {"CVPODS_DATASETS": str(root)}
    words = ["pods_train", "--num-processes", count, "TEST.EVAL_PERIOD", "2"]
    said = run_command(words, experiment, status=1, **data).stderr
    assert "The evaluation after 2 iterations failed, training continues" in said
    assert image.name in said and "Traceback" not in said, said
    output = experiment / "output"
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == 3
    assert "4 of 4 iterations are done and saved" in said
    (tmp_path / "away").rename(image)
    (experiment / "net.py").write_text(whole)
    again = run_command([*words[:1], "--resume", *words[1:]], experiment, **data).stderr
    assert "copypaste: AP,AP50" in again
    assert json.loads((output / "inference/results.json").read_text())["bbox"]


@pytest.mark.slow
def test_results_that_cannot_be_written(experiment, run_command):
    """OUTPUT_DIR/inference is a file and metrics.json a folder: one error each that names it."""
    output = experiment / "output"
    output.mkdir()
    words = ["pods_train", "--resume", "TEST.EVAL_PERIOD", "2"]
    (output / "inference").write_text("")
    (output / "metrics.json").mkdir()
    said = run_command(words, experiment, status=1).stderr
    assert "The evaluation after 2 iterations failed, training continues" in said
    assert said.count("metrics.json cannot be written, training continues") == 1
    assert "Traceback" not in said and (output / "model_final.pth").is_file()
