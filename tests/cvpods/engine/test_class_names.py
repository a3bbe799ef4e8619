"""Class names of weights and data sets: mapped by name, refused, or accepted by position."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from loguru import logger
from torch import nn

from cvpods.checkpoint.origin import Origin, origin_of, set_origin
from cvpods.configs import BaseConfig
from cvpods.data import build_dataset, register_coco_instances
from cvpods.engine.class_names import (
    ClassMismatch,
    class_order,
    map_classes,
    resume_classes,
    warn_of_other_classes,
)
from cvpods.structures import Boxes, Instances


def test_order_by_hand():
    """The model's cat, dog, cow are the data set's number 2, 0, 1."""
    assert class_order(["cat", "dog", "cow"], ["dog", "cow", "cat"], "val") == [2, 0, 1]


@pytest.mark.parametrize(
    ("trained", "wanted"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        ([], ["cat", "dog"]),  # weights that do not know their names
        (["cat"], ["cat", "dog"]),  # check_num_classes() compares the numbers
    ],
)
def test_nothing_to_map(trained, wanted):
    assert class_order(trained, wanted, "val") is None


@pytest.mark.parametrize(
    ("trained", "wanted", "advice"),
    [
        (["cat", "dog"], ["cat", "bird"], "rename them in the annotation file"),
        (["cat", "dog"], ["Cat", " dog"], "differ in case or spaces only"),
        (["cat", "dog", "cat"], ["cat", "cat", "dog"], "'cat' names several classes"),
        (["cat", "cat"], ["cat", "dog"], "rename them in the annotation file"),
    ],
)
def test_other_names_are_refused_side_by_side(trained, wanted, advice):
    with pytest.raises(ClassMismatch) as caught:
        class_order(trained, wanted, "cells_val")
    text = str(caught.value)
    assert advice in text and "TEST.CLASSES_BY_POSITION True" in text and "cells_val" in text
    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert [row[1:3] for row in rows] == [
        [a.strip(), b.strip()] for a, b in zip(trained, wanted, strict=True)
    ]
    assert class_order(trained, wanted, "cells_val", by_position=True) is None


class Constant(nn.Module):
    """Finds one box of each class, in the order 0, 1, 2."""

    def forward(self, batched_inputs):
        found = Instances((9, 9), pred_boxes=Boxes(torch.zeros(3, 4)), scores=torch.ones(3))
        found.pred_classes = torch.arange(3)
        return [{"instances": found} for _ in batched_inputs]


def test_mapped_model():
    meta = SimpleNamespace(thing_classes=["dog", "cow", "cat"])
    model = map_classes(Constant(), ["cat", "dog", "cow"], meta, "val", by_position=False)
    (result,) = model([{}])
    assert result["instances"].pred_classes.tolist() == [2, 0, 1]
    plain = Constant()
    assert map_classes(plain, ["cat", "dog", "cow"], meta, "val", by_position=True) is plain


def write_dataset(folder, name, classes):
    """Write one image with a box of each class, whose width is its place in the alphabet."""
    folder.mkdir()
    boxes = [
        {"image_id": 1, "category_id": i, "bbox": [0, 0, 1 + sorted(classes).index(c), 9]}
        for i, c in enumerate(classes)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 9, "width": 9}],
        "categories": [{"id": i, "name": c} for i, c in enumerate(classes)],
        "annotations": boxes,
    }
    (folder / "a.json").write_text(json.dumps(content))
    register_coco_instances(name, folder / "a.json", folder)


def test_resumed_training_takes_the_checkpoints_order(tmp_path):
    """Each box keeps the class of its name, whatever its number is."""
    cfg = BaseConfig()
    write_dataset(tmp_path / "a", "resumed", ["dog", "cat", "cow"])
    dataset = build_dataset(cfg, ["resumed"])
    resume_classes(cfg, None, dataset)
    resume_classes(cfg, ["dog", "cat", "cow"], dataset)
    assert dataset.meta.thing_classes == ["dog", "cat", "cow"]
    resume_classes(cfg, ["cat", "cow", "dog"], dataset)
    assert dataset.meta.thing_classes == ["cat", "cow", "dog"]
    assert dataset.meta.thing_dataset_id_to_contiguous_id == {0: 2, 1: 0, 2: 1}
    annotations = dataset.datasets[0].dataset_dicts[0]["annotations"]
    assert {(a["bbox"][2], a["category_id"]) for a in annotations} == {(1, 0), (2, 1), (3, 2)}
    with pytest.raises(ClassMismatch, match="rename them"):
        resume_classes(cfg, ["cat", "cow", "pig"], dataset)
    cfg.TEST.CLASSES_BY_POSITION = True
    resume_classes(cfg, ["cat", "cow", "pig"], dataset)
    assert dataset.meta.thing_classes == ["cat", "cow", "dog"]


def test_weights_of_other_classes_are_named():
    """A training may start from them; the log shows both lists."""
    lines = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    warn_of_other_classes(["cat", "dog"], ["cat", "dog"])
    warn_of_other_classes(["cat", "dog", "cow"], ["cat", "dog"])
    warn_of_other_classes(None, ["cat", "dog"])
    assert lines == []
    warn_of_other_classes(["cat", "dog"], ["dog", "cat"])
    logger.remove(handler)
    (line,) = lines
    assert [row.split()[1:3] for row in line.splitlines()[3:]] == [["cat", "dog"], ["dog", "cat"]]


def test_origin_of_wrapped_models():
    detector = nn.Linear(1, 1)
    origin = Origin("x.pth", class_names=("cat",))
    set_origin(detector, origin)
    wrapper = nn.Module()
    wrapper.detector = detector
    assert origin_of(detector) is origin_of(wrapper) is origin
    assert origin_of(nn.Linear(1, 1)) == Origin()
    assert set(detector.state_dict()) == {"weight", "bias"}


# -- the commands ----------------------------------------------------------------------------------

ORDER = ["ring", "disc", "cross", "square", "star", "triangle"]


def write_val(shapes_root: Path, path: Path, names: dict[str, str] | None = None) -> None:
    """Write the validation data with the ids 1 ... 6 in ORDER; `names` renames classes."""
    content = json.loads((shapes_root / "shapes/annotations/instances_val.json").read_text())
    new = {c["id"]: ORDER.index(c["name"]) + 1 for c in content["categories"]}
    named = {new[c["id"]]: c["name"] for c in content["categories"]}
    for annotation in content["annotations"]:
        annotation["category_id"] = new[annotation["category_id"]]
    content["categories"] = [
        {"id": i, "name": (names or {}).get(named[i], named[i])} for i in sorted(named)
    ]
    path.write_text(json.dumps(content))


@pytest.fixture
def other_order(experiment, shapes_root):
    """Give the experiment the data sets "reordered" and "renamed"."""
    images = shapes_root / "shapes/val"
    lines = ["from cvpods.data import register_coco_instances"]
    for name, names in (("reordered", {}), ("renamed", {"disc": "Disc"})):
        path = experiment / f"{name}.json"
        write_val(shapes_root, path, names)
        lines.append(f"register_coco_instances({name!r}, {str(path)!r}, {str(images)!r})")
    with (experiment / "config.py").open("a") as file:
        file.write("\n".join(lines) + "\n")
    return experiment


def found_in(folder: Path, categories: Path) -> list[tuple]:
    """Detections with the names of their classes."""
    content = json.loads(categories.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    return sorted(
        (d["image_id"], names[d["category_id"]], d["score"], *d["bbox"])
        for d in json.loads((folder / "coco_instances_results.json").read_text())
    )


@pytest.mark.slow
def test_pods_test_maps_or_refuses(other_order, run_command, shapes_root):
    """The same weights on the same images: the same detections by name, whatever the numbering.

    Renamed classes are refused before inference, and accepted by position.
    """
    key = ["MODEL.ATSS.SCORE_THRESH_TEST", "0.0"]
    done = run_command(["pods_train", *key], other_order)
    wanted = found_in(
        other_order / "output/inference", shapes_root / "shapes/annotations/instances_val.json"
    )
    assert len({name for _, name, *_ in wanted}) > 1
    test = ["pods_test", *key, "DATASETS.TEST"]
    done = run_command([*test, "('reordered',)"], other_order)
    (line,) = [line for line in done.stderr.splitlines() if "mapped by name" in line]
    assert "disc 0 -> 1" in line and "ring 4 -> 0" in line
    assert found_in(other_order / "output/inference", other_order / "reordered.json") == wanted
    done = run_command([*test, "('renamed',)"], other_order, status=1)
    assert "Traceback" not in done.stderr and "Inference done" not in done.stderr
    assert any(line.split()[:3] == ["0", "disc", "ring"] for line in done.stderr.splitlines())
    assert "case or spaces" in done.stderr
    run_command([*test, "('renamed',)", "TEST.CLASSES_BY_POSITION", "True"], other_order)
    positions = [
        n for _, n, *_ in found_in(other_order / "output/inference", other_order / "renamed.json")
    ]
    assert "Disc" in positions


@pytest.mark.slow
def test_training_compares_its_data_sets(other_order, run_command):
    """Other names end before the first iteration; another order is mapped in the evaluation."""
    done = run_command(["pods_train", "DATASETS.TEST", "('renamed',)"], other_order, status=1)
    assert "Disc" in done.stderr and "Traceback" not in done.stderr and "iter: 1" not in done.stderr
    short = ["SOLVER.LR_SCHEDULER.MAX_ITER", "1"]
    done = run_command(["pods_train", *short, "DATASETS.TEST", "('reordered',)"], other_order)
    assert "mapped by name" in done.stderr
    again = ["pods_train", "--resume", "DATASETS.TRAIN", "('reordered',)"]
    done = run_command([*again, "SOLVER.LR_SCHEDULER.MAX_ITER", "2"], other_order)
    assert "DATASETS.TRAIN numbers the classes of the model differently" in done.stderr
