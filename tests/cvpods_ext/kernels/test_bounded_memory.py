"""No assigner's memory grows with boxes x locations, and slices change nothing, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch

from cvpods.structures import Boxes, Instances
from cvpods_ext.methods.atss import atss_assign
from cvpods_ext.methods.atss.compared.max_iou import max_iou_assign
from cvpods_ext.methods.atss.compared.scale_range import scale_range_assign
from cvpods_ext.methods.atss.compared.topk_iou import topk_iou_assign
from tests.cvpods.modeling.test_unassigned import model_of
from tests.load_script import ROOT

RANGES = [(0, 32), (32, 64), (64, 1e8)]
ASSIGNERS = {
    "ATSS": partial(atss_assign, topk=5),
    "IoU": max_iou_assign,
    "SSC": partial(scale_range_assign, size_ranges=RANGES),
    "TOPK": partial(topk_iou_assign, topk=5),
}


def boxes_with_ties(seed: int) -> torch.Tensor:
    """30 boxes on whole multiples of 4 pixels, some of them twice: equal IoUs, areas, distances."""
    torch.manual_seed(seed)
    low = torch.randint(0, 20, (30, 2)) * 4.0
    boxes = torch.cat([low, low + torch.randint(1, 16, (30, 2)) * 4.0], dim=1)
    return torch.cat([boxes, boxes[::7]])


def square_anchors() -> tuple[torch.Tensor, list[int]]:
    levels = []
    for stride in (8, 16, 32):
        y, x = torch.meshgrid(*[torch.arange(0, 128, stride) + stride / 2] * 2, indexing="ij")
        middle = torch.stack([x, y, x, y], dim=-1).reshape(-1, 4)
        levels.append(middle + torch.tensor([-1, -1, 1, 1]) * 2 * stride)
    return torch.cat(levels), [len(level) for level in levels]


@pytest.mark.parametrize("name", ASSIGNERS)
def test_slices_of_the_assigners(name, monkeypatch):
    anchors, sizes = square_anchors()
    for seed in range(10):
        boxes = boxes_with_ties(seed)
        monkeypatch.setattr("cvpods.structures.slices.SLICE_ON_CPU", 10**9)
        whole = ASSIGNERS[name](anchors, sizes, boxes)
        for bound in (1, 3 * len(anchors)):
            monkeypatch.setattr("cvpods.structures.slices.SLICE_ON_CPU", bound)
            sliced = ASSIGNERS[name](anchors, sizes, boxes)
            assert torch.equal(sliced.gt_index, whole.gt_index)
            assert torch.equal(sliced.quality, whole.quality)
        assert (whole.gt_index >= 0).any()


@pytest.mark.parametrize("method", ["retinanet", "fcos"])
def test_slices_of_the_detectors(method, monkeypatch):
    model = model_of(method)
    features = [torch.zeros(1, 1, 128 // s, 128 // s) for s in (8, 16, 32, 64, 128)]
    priors = model.priors(features[: len(model.in_features)])
    priors = torch.cat(priors) if method == "retinanet" else priors
    for seed in range(5):
        boxes = boxes_with_ties(seed)
        target = Instances((128, 128), gt_boxes=Boxes(boxes))
        target.gt_classes = torch.arange(len(boxes)) % model.num_classes
        found = []
        for bound in (10**9, 1, 10**5):
            monkeypatch.setattr("cvpods.structures.slices.SLICE_ON_CPU", bound)
            found.append(model.assign(priors, target))
        for classes, deltas in found[1:]:
            assert torch.equal(classes, found[0][0]) and torch.equal(deltas, found[0][1])


@pytest.mark.slow
def test_memory_of_many_boxes():
    """2,000 boxes in an image of 160 x 160 pixels; the table of RetinaNet alone would be 39 MiB,
    and its work on it took 330 MiB.
    """
    words = [str(ROOT / "scripts/benchmark_assign.py"), "--boxes", "2000", "--size", "160x160"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in done.stdout.splitlines()[2:]]
    growth = {row[1].strip(): float(row[3].split()[0].replace(",", "")) for row in rows}
    assert len(growth) == 6 and max(growth.values()) < 100, growth
