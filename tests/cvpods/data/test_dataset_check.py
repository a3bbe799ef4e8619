"""Findings of the data check, the repaired content, and substitutes for unusable images."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from PIL import Image

from cvpods.configs import BaseConfig
from cvpods.data import register_coco_instances
from cvpods.data.dataset_check import check_coco
from cvpods.data.datasets import COCODataset
from cvpods.data.samplers import SampleKey
from cvpods.data.seeded_dataset import SeededDataset
from cvpods.utils.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Return a folder with three images of 60 x 40."""
    for i in range(3):
        pixels = np.full((40, 60, 3), 40 * i, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def content():
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in range(3)],
        "categories": [{"id": 4, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 10 + i, "image_id": i, "category_id": 4 + 3 * (i % 2), "bbox": [5, 6, 20, 10]}
            for i in range(3)
        ],
    }


def findings(report):
    return {kind: len(where) for kind, where in report.found.items() if where}


def test_nothing_wrong(folder):
    report, repaired = check_coco("a", content(), folder, num_classes=2)
    assert findings(report) == {} and repaired == content()
    assert report.per_class == {"cat": 2, "dog": 1} and report.files_read == 3
    assert "Nothing wrong" in str(report)


@pytest.mark.parametrize(
    "bbox, kind, left",
    [
        ([5, 6, 0, 10], "zero or negative box", None),
        ([5, 6, 20, -1], "zero or negative box", [5, 5, 20, 1]),
        ([25, 16, -20, -10], "zero or negative box", [5, 6, 20, 10]),
        ([math.nan, 6, 20, 10], "NaN or infinite box", None),
        ([5, 6, math.inf, 10], "NaN or infinite box", None),
        ([60, 6, 20, 10], "box outside the image", None),
        ([-30, -30, 20, 10], "box outside the image", None),
        ([50, 30, 20, 20], "box partly outside", [50, 30, 10, 10]),
        ([-4, 6, 20, 10], "box partly outside", [0, 6, 16, 10]),
        ([50.5, 30, 10, 10], None, [50.5, 30, 10, 10]),  # half a pixel beyond: rounding
        ([5, 6, 20], "malformed box", None),
        ("5 6 20 10", "malformed box", None),
    ],
)
def test_boxes(folder, bbox, kind, left):
    """`bbox` is the only box of image 0."""
    broken = content()
    broken["annotations"][0]["bbox"] = bbox
    report, repaired = check_coco("a", broken, folder)
    expected = {} if kind is None else {kind: 1}
    # Training leaves out boxes of negative size, although --fix reverses them.
    unused = left is None or kind == "zero or negative box"
    expected |= {"image without boxes": 1} if unused else {}
    assert findings(report) == expected
    boxes = [a["bbox"] for a in repaired["annotations"] if a["id"] == 10]
    assert boxes == ([] if left is None else [left])


def change(place, value):
    def apply(broken):
        *parents, last = place
        node = broken
        for key in parents:
            node = node[key]
        node[last] = value

    return apply


@pytest.mark.parametrize(
    "spoil, expected",
    [
        (change(("annotations", 0, "category_id"), 5), "unknown category id"),
        (change(("annotations", 0, "image_id"), 9), "unknown image id"),
        (change(("images", 0, "id"), 1), "duplicate image id"),
        (change(("categories", 1, "id"), 4), "duplicate category id"),
        (change(("images", 0, "width"), 61), "other size than annotated"),
        (change(("images", 0, "file_name"), "none.png"), "missing file"),
        (change(("images", 0, "height"), "high"), "missing size"),
        (change(("annotations", 0, "image_id"), [0]), "malformed record"),
        (change(("annotations",), []), "no box at all"),
        (change(("annotations", 0, "bbox"), None), "annotation without a box"),
        (change(("images",), None), "malformed record"),
    ],
)
def test_records(folder, spoil, expected):
    """The repaired content has no more errors, and training reads it."""
    broken = content()
    spoil(broken)
    before = copy.deepcopy(broken)
    report, repaired = check_coco("a", broken, folder)
    assert findings(report)[expected] >= 1 and report.count("error") >= 1
    assert broken == before
    again, _ = check_coco("a", repaired, folder)
    assert set(findings(again)) <= {
        "image without boxes",
        "class without boxes",
        "no box at all",
        "no image at all",
    }
    if repaired["annotations"]:
        (folder / "repaired.json").write_text(json.dumps(repaired))
        register_coco_instances("repaired", folder / "repaired.json", folder)
        COCODataset(BaseConfig(), "repaired")


def test_corrupt_file_and_many_boxes(folder):
    data = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(data[: len(data) // 2])
    broken = content()
    box = broken["annotations"][1]
    broken["annotations"] += [{**box, "id": 100 + i} for i in range(1000)]
    report, repaired = check_coco("a", broken, folder, num_classes=80)
    assert findings(report) == {
        "corrupt file": 1,
        "box of an image that is left out": 1,
        "more than 1,000 boxes": 1,
        "NUM_CLASSES": 1,
        "the same box twice": 1000,
    }
    assert [image["id"] for image in repaired["images"]] == [1, 2]
    assert "corrupt file" in str(report) and "error" in str(report)


def test_a_sample_of_the_files(folder):
    (folder / "0.png").unlink()
    report, _ = check_coco("a", content(), folder, files=1)
    assert report.files_read == 1


# -- while training --------------------------------------------------------------------------------


def dataset(folder):
    (folder / "a.json").write_text(json.dumps(content()))
    register_coco_instances("seeded", folder / "a.json", folder)
    return COCODataset(BaseConfig(), "seeded")


def test_substitutes_for_a_corrupt_image_are_deterministic(folder):
    data = dataset(folder)
    (folder / "1.png").write_bytes(b"no image")
    sample = SeededDataset(data)[SampleKey(1, 5)]
    again = SeededDataset(data)[SampleKey(1, 5)]
    assert sample["image_id"] == again["image_id"] != 1 and sample["key"] == again["key"]
    assert list(sample["unusable"]) == [str(folder / "1.png")]
    others = {SeededDataset(data)[SampleKey(1, seed)]["image_id"] for seed in range(20)}
    assert others == {0, 2}
    assert "unusable" not in SeededDataset(data)[SampleKey(0, 5)]


def test_all_images_missing(folder):
    data = dataset(folder)
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="images in a row cannot be used.*pods_check"):
        SeededDataset(data)[SampleKey(1, 5)]


def test_unknown_image_ids_of_two_kinds(folder):
    """Ids that cannot be sorted together (found by mutation)."""
    broken = content()
    broken["annotations"][0]["image_id"], broken["annotations"][1]["image_id"] = -1, "x"
    (folder / "kinds.json").write_text(json.dumps(broken))
    register_coco_instances("kinds", folder / "kinds.json", folder)
    with pytest.raises(DataError, match="unknown image id"):
        COCODataset(BaseConfig(), "kinds")


def test_repeated_text_ids_stay_texts(folder):
    """Ids "a", "a", "b" become "a", a new text, "b" (found by mutation)."""
    broken = content()
    for annotation, id_ in zip(broken["annotations"], ("a", "a", "b"), strict=True):
        annotation["id"] = id_
    _, repaired = check_coco("a", broken, folder)
    ids = [annotation["id"] for annotation in repaired["annotations"]]
    assert len(set(ids)) == 3 and all(isinstance(id_, str) for id_ in ids)
    assert findings(check_coco("a", repaired, folder)[0]) == {}
