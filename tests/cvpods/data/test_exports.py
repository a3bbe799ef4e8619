"""Files in the shape of each dataset tool's export: read, checked, and AP 100 for perfect boxes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from cvpods.configs import BaseConfig
from cvpods.data import register_coco_instances
from cvpods.data.dataset_check import check_coco
from cvpods.data.datasets import COCODataset
from cvpods.evaluation import evaluate_boxes
from tests.exports import EXPORTS

# The only warnings for each tool.
WARNINGS = {
    "Roboflow": {"root class"},
    "Label Studio on Windows": {"file names in another notation"},
}


def make(folder):
    """Write three images with five boxes of three classes, not numbered alphabetically."""
    folder.mkdir(parents=True)
    sizes = {11: (100, 80), 12: (64, 48), 13: (50, 70)}
    for id_, (width, height) in sizes.items():
        Image.fromarray(np.full((height, width, 3), id_, np.uint8)).save(folder / f"{id_}.png")
    boxes = [
        (11, 4, [10, 10, 30, 20]), (11, 2, [50, 40, 20, 30]), (12, 2, [5, 6, 7, 8]),
        (12, 9, [20.5, 10.25, 15.5, 20.75]), (12, 4, [40, 30, 24, 18]),
    ]  # fmt: skip
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": w, "height": h}
            for i, (w, h) in sizes.items()
        ],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for n, (i, c, b) in enumerate(boxes, 1)
        ],
        "categories": [
            {"id": 2, "name": "dog"},
            {"id": 4, "name": "cat"},
            {"id": 9, "name": "bird"},
        ],
    }


@pytest.fixture(params=EXPORTS)
def exported(request, tmp_path):
    folder = tmp_path / "images"
    content = EXPORTS[request.param](make(folder), folder)
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_coco_instances("exported", tmp_path / "a.json", folder)
    return request.param, content, folder


def test_perfect_detections_reach_100(exported):
    _, content, _ = exported
    truth = COCODataset(BaseConfig(), "exported", is_train=False).coco_ground_truth()
    keys = ("image_id", "category_id", "bbox")
    detections = [{**{k: a[k] for k in keys}, "score": 0.9} for a in content["annotations"]]
    metrics, per_class, _ = evaluate_boxes(truth, detections)
    assert metrics["AP"] == pytest.approx(100)
    for name in ("dog", "cat", "bird"):
        assert per_class[name] == pytest.approx(100)


def test_every_image_has_its_boxes(exported):
    """An image keeps its boxes and their classes, whatever the ids are."""
    dataset = COCODataset(BaseConfig(), "exported")
    names = dataset.meta["thing_classes"]
    found = set()
    for index in range(len(dataset)):
        sample = dataset[index]
        shade = int(sample["image"].max())  # the id in make()
        for box, label in zip(
            sample["instances"].gt_boxes.tensor.tolist(),
            sample["instances"].gt_classes.tolist(),
            strict=True,
        ):
            found.add((shade, names[label], *(round(value, 3) for value in box)))
    assert found == {
        (11, "cat", 10, 10, 40, 30),
        (11, "dog", 50, 40, 70, 70),
        (12, "dog", 5, 6, 12, 14),
        (12, "bird", 20.5, 10.25, 36, 31),
        (12, "cat", 40, 30, 64, 48),
    }


def test_check_and_fix(exported):
    tool, content, folder = exported
    report, repaired = check_coco(tool, content, folder)
    assert report.count("error") == 0
    assert set(report.kinds("warning")) == WARNINGS.get(tool, set())
    again, _ = check_coco(tool, repaired, folder, num_classes=3)
    assert again.count("error") == again.count("warning") == 0 and again.boxes == 5
