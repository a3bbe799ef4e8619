"""Evaluation: AP does not depend on how many images are tested at once."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from cvpods.engine import DefaultRunner
from cvpods.tools.experiment import open_experiment


@pytest.fixture
def evaluated(experiment, shapes_root, monkeypatch):
    """Return a function that evaluates an untrained model, a number of images at once."""
    monkeypatch.setenv("CVPODS_DATASETS", str(shapes_root))

    def run(images: int) -> tuple[dict, dict]:
        options = ["TEST.IMS_PER_DEVICE", str(images), "MODEL.ATSS.SCORE_THRESH_TEST", "0.3"]
        cfg, build_model = open_experiment(experiment, options, "cpu")
        torch.manual_seed(0)
        model = build_model(cfg)
        nn.init.zeros_(model.head.cls_score.bias)
        nn.init.normal_(model.head.cls_score.weight, std=0.1)
        folder = experiment / f"found_{images}"
        results = DefaultRunner.test(cfg, model, folder)
        by_image: dict[int, list] = {}
        for found in json.loads((folder / "coco_instances_results.json").read_text()):
            row = [found["score"], found["category_id"], *found["bbox"]]
            by_image.setdefault(found["image_id"], []).append(row)
        return results["bbox"], by_image

    return run


def is_found(row: list, others: list) -> bool:
    """Return whether `others` has that class with nearly the same score and box."""
    near = [o for o in others if o[1] == row[1] and abs(o[0] - row[0]) < 1e-4]
    return any(other[2:] == pytest.approx(row[2:], abs=0.05) for other in near)


def test_detections_do_not_depend_on_images_at_once(evaluated):
    """Shapes come in several sizes: padded to one, their scores would change by 0.01 and more.

    Of the 100 best, those whose scores are equal up to rounding may change places at the end.
    """
    one, alone = evaluated(1)
    four, together = evaluated(4)
    assert one["AP"] == pytest.approx(four["AP"], abs=0.01)
    assert alone.keys() == together.keys() and len(alone) == 8
    for image_id, rows in alone.items():
        found = together[image_id]
        assert [r[0] for r in found] == pytest.approx([r[0] for r in rows], abs=1e-4)
        assert sum(is_found(row, found) for row in rows) >= 0.97 * len(rows)
