"""Evaluation does not depend on how a file writes its ids, and equals pycocotools.

Random ground truth and detections with crowds, ties, all sizes and empty images; the ids of images,
classes and annotations are rewritten by every scheme.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import uuid

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cvpods.configs import BaseConfig
from cvpods.data import register_coco_instances
from cvpods.data.datasets import COCODataset
from cvpods.evaluation import NMSRecallEvaluator, evaluate_boxes
from cvpods.evaluation.coco_evaluation import match_boxes
from cvpods.evaluation.score_thresholds import best_score_thresholds
from cvpods.structures import Boxes, Instances
from cvpods.utils.errors import DataError

# New value of the i-th of n ids, i = 0, 1, ...; "reversed" and UUIDs change the order of classes.
SCHEMES = {
    "from 0": lambda i, n: i,
    "negative": lambda i, n: i - n,
    "around 0": lambda i, n: i - n // 2,
    "2^53 + i": lambda i, n: 2**53 + i,
    "17 digits": lambda i, n: 20_261_127_120_000_000 + i,
    "2^63 + i": lambda i, n: 2**63 + i,
    "texts": lambda i, n: f"c{i:03d}",
    "texts of digits": lambda i, n: str(i + 1),
    "texts with zeros": lambda i, n: f"{i:012d}",
    "whole floats": lambda i, n: 908400416500.0 + i,
    "gaps": lambda i, n: (i + 1) ** 3,
    "reversed": lambda i, n: n - i,
    "UUIDs": lambda i, n: str(uuid.UUID(int=(i + 1) * 0x9E3779B97F4A7C15 % 2**127)),
}


def random_data(seed: int) -> tuple[dict, list[dict]]:
    """Return 15 images, some of them empty, and 4 classes, one of them unused; ids start at 1."""
    rng = np.random.default_rng(seed)
    images = [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in range(1, 16)]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, 5)]
    annotations, detections = [], []
    for image in images:
        for _ in range(rng.integers(0, 7)):
            size = rng.choice([12, 25, 60, 150]) * rng.uniform(0.7, 1.3, 2)
            box = np.concatenate([rng.uniform(0, 300, 2), size]).round(2)
            where = {"image_id": image["id"], "category_id": int(rng.choice([1, 2, 4]))}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    **where,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.15),
                    "ignore": int(rng.random() < 0.15),
                }
            )
            for _ in range(rng.integers(0, 3)):
                moved = (
                    box + rng.normal(scale=rng.choice([0.01, 0.1, 0.3]), size=4) * box[[2, 3, 2, 3]]
                )
                wrong = rng.random() < 0.1
                score = round(rng.random(), 1)  # many ties, within and between images
                found = {**where, "bbox": moved.clip(min=1).tolist(), "score": score}
                detections.append(found | ({"category_id": 3} if wrong else {}))
    return {"images": images, "categories": categories, "annotations": annotations}, detections


def rewritten(truth: dict, detections: list[dict], schemes: dict[str, str]) -> tuple[dict, list]:
    """Return the data with the ids of each section rewritten by a scheme."""
    truth, detections = copy.deepcopy((truth, detections))
    ids = {}
    for section, scheme in schemes.items():
        n = len(truth[section])
        ids[section] = {r["id"]: SCHEMES[scheme](i, n) for i, r in enumerate(truth[section])}
        for record in truth[section]:
            record["id"] = ids[section][record["id"]]
    for record in [*truth["annotations"], *detections]:
        record["image_id"] = ids["images"][record["image_id"]]
        record["category_id"] = ids["categories"][record["category_id"]]
    return truth, detections


def by_pycocotools(truth: dict, detections: list[dict]) -> tuple[np.ndarray, dict[str, float]]:
    """Return the twelve numbers, and the AP of each class, -1 if it has no objects."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy({"info": {}, **truth})
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return evaluation.stats, {
        c["name"]: ap(precision[:, :, k]) for k, c in enumerate(truth["categories"])
    }


def ap(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def by_us(truth: dict, detections: list[dict]) -> tuple[np.ndarray, dict[str, float]]:
    evaluation, names = match_boxes(truth, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return evaluation.all_stats[:12], {n: ap(precision[:, :, k]) for k, n in enumerate(names)}


@pytest.mark.parametrize("seed", range(3))
def test_any_ids_give_the_numbers_of_pycocotools(seed):
    truth, detections = random_data(seed)
    expected, expected_per_class = by_pycocotools(truth, detections)
    assert 0.05 < expected[0] < 0.95 and expected_per_class["class 3"] == -1
    sections = ("images", "categories", "annotations")
    rng = np.random.default_rng(seed)
    trials = [dict.fromkeys(sections, scheme) for scheme in SCHEMES]  # shared between the tables
    names = list(SCHEMES)
    trials += [dict(zip(sections, rng.choice(names, 3), strict=True)) for _ in range(20)]
    for schemes in trials:
        numbers, per_class = by_us(*rewritten(truth, detections, schemes))
        np.testing.assert_allclose(numbers, expected, rtol=0, atol=1e-12, err_msg=str(schemes))
        assert per_class.keys() == expected_per_class.keys(), schemes
        for name, value in expected_per_class.items():
            assert per_class[name] == pytest.approx(value, abs=1e-12), (schemes, name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_files_results_and_thresholds(tmp_path, scheme):
    """Read a json file, evaluate, and compute thresholds; results keep the user's ids."""
    truth, detections = random_data(7)
    best = best_score_thresholds(truth, detections)
    metrics, _, _ = evaluate_boxes(truth, detections)
    recall = nms_recall(truth, detections)
    schemes = dict.fromkeys(("images", "categories", "annotations"), scheme)
    truth, detections = rewritten(truth, detections, schemes)
    (tmp_path / "a.json").write_text(json.dumps(truth))
    register_coco_instances("ids", tmp_path / "a.json", tmp_path)
    dataset = COCODataset(BaseConfig(), "ids", is_train=False)
    read = dataset.coco_ground_truth()
    detections = json.loads(json.dumps(detections))
    assert evaluate_boxes(read, detections)[0] == pytest.approx(metrics, abs=1e-10)
    assert best_score_thresholds(read, detections) == best
    assert nms_recall(read, detections) == recall
    kind = str if isinstance(SCHEMES[scheme](0, 9), str) else int
    assert {type(d["image_id"]) for d in dataset.dataset_dicts} == {kind}
    ids = dataset.meta["thing_dataset_id_to_contiguous_id"]
    assert {type(id_) for id_ in ids} == {kind} and set(ids.values()) == set(range(4))


def nms_recall(truth: dict, detections: list[dict]) -> dict:
    evaluator = NMSRecallEvaluator("ids", truth)
    for image in truth["images"]:
        boxes = [d["bbox"] for d in detections if d["image_id"] == image["id"]]
        found = Instances((480, 640), pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))
        evaluator.process([{"image_id": image["id"]}], [{"before": found, "after": found[:1]}])
    return evaluator.evaluate()


def test_texts_of_digits_are_ordered_as_numbers(tmp_path):
    """Class "10" comes after class "2"."""
    categories = [{"id": str(k), "name": f"class {k}"} for k in (10, 2, 1)]
    content = {"images": [{"id": 1, "file_name": "a", "height": 9, "width": 9}], "annotations": []}
    (tmp_path / "a.json").write_text(json.dumps({**content, "categories": categories}))
    register_coco_instances("digits", tmp_path / "a.json", tmp_path)
    dataset = COCODataset(BaseConfig(), "digits", is_train=False)
    assert dataset.meta["thing_classes"] == ["class 1", "class 2", "class 10"]


def one_object(**more):
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 0, **box, **more}],
    }
    return truth, [{**box, "score": 0.5}]


@pytest.mark.parametrize(
    "more",
    [
        {"area": None},
        {"area": "400"},
        {"area": "large"},
        {"area": 0},
        {"area": -1},
        {"area": float("nan")},
        {"iscrowd": None},
        {"iscrowd": "0"},
        {"iscrowd": False},
        {"ignore": "0"},
        {"ignore": None},
        {"ignore": 1},
        {"bbox": ["10", "10", "20", "20"]},
    ],
)
def test_values_in_the_types_that_tools_write(more):
    """Detect a small object with annotation id 0: AP and APs are 100."""
    metrics, _, _ = evaluate_boxes(*one_object(**more))
    assert (metrics["AP"], metrics["APs"]) == pytest.approx((100, 100))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"image_id": 2}, "no image with id 2"),
        ({"image_id": "1"}, "no image with id '1'"),
        ({"category_id": "1"}, "no category with id '1'"),
        ({"score": "high"}, "'high' is not a number"),
        ({"bbox": [1, 2, 3]}, "must have 4 numbers"),
    ],
)
def test_detections_that_cannot_be_matched_are_named(change, said):
    truth, detections = one_object()
    with pytest.raises(DataError, match=said):
        evaluate_boxes(truth, [{**detections[0], **change}])


def test_two_classes_with_one_name_are_kept():
    truth, detections = one_object()
    truth["categories"].append({"id": 7, "name": "a"})
    _, per_class, _ = evaluate_boxes(truth, detections)
    assert list(per_class) == ["a (id 1)", "a (id 7)"]


def test_detections_of_other_classes_are_skipped():
    """Count them neither as an error nor as a false positive, which pycocotools does too."""
    truth, detections = one_object()
    others = [{**detections[0], "category_id": 9, "score": 0.9}]
    assert evaluate_boxes(truth, [*others, *detections])[0]["AP"] == pytest.approx(100)


def test_images_in_any_order():
    """Order equal scores by the image's id, not by its place in the file, as pycocotools does."""
    for seed in range(3):
        truth, detections = random_data(seed)
        np.random.default_rng(seed).shuffle(truth["images"])
        expected, _ = by_pycocotools(truth, detections)
        numbers, _ = by_us(truth, detections)
        np.testing.assert_allclose(numbers, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "bad", [{"score": float("nan")}, {"score": float("inf")}, {"bbox": [0, 0, 1, float("nan")]}]
)
def test_detections_that_are_not_finite_are_refused(bad):
    truth, detections = one_object()
    with pytest.raises(DataError, match="is not finite"):
        evaluate_boxes(truth, [{**detections[0], **bad}])


def test_detections_that_are_not_objects_are_refused():
    truth, _ = one_object()
    with pytest.raises(DataError, match="Detection 5 cannot be evaluated"):
        evaluate_boxes(truth, [5])
