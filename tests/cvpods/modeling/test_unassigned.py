"""Objects that no location is assigned to: counted, and named once."""

from __future__ import annotations

import copy

import pytest
import torch
from loguru import logger

from cvpods.modeling.meta_arch.unassigned import UnassignedObjects, assigned_boxes, boxes_with_point
from cvpods.structures import Boxes, Instances
from cvpods.tools.experiment import open_experiment
from cvpods_ext.kernels.pairs import inside_pairs
from tests.load_script import ROOT


@pytest.fixture
def log():
    """Warnings, as texts."""
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    yield lines
    logger.remove(handler)


def test_assigned_boxes():
    """The second and the last of four boxes have locations; -1 and -2 stand for no box."""
    index = torch.tensor([-1, 1, -2, 3, 1])
    assert assigned_boxes(index, 4).tolist() == [False, True, False, True]
    assert assigned_boxes(torch.tensor([-1]), 0).tolist() == []


# Sides 4 and 20 pixels.
SMALL, LARGE = [0.0, 0, 4, 20], [0.0, 0, 20, 20]


def run(counter: UnassignedObjects, passes: int, boxes: list, has_location: list) -> None:
    for _ in range(passes):
        counter.add(torch.tensor(boxes), torch.tensor(has_location), 8)
        counter.end_pass()


def test_warning_by_hand(log):
    """4 objects a pass, 2 of them without a location, one of these small: 8 and 4 of 16 after 4."""
    counter = UnassignedObjects()
    run(counter, 3, [SMALL, LARGE, SMALL, LARGE], [False, False, True, True])
    assert log == []
    run(counter, 30, [SMALL, LARGE, SMALL, LARGE], [False, False, True, True])
    (line,) = log
    assert line.startswith("8 of 16 objects in the first 4 forward passes have no location")
    assert "4 of them are smaller than the finest stride, 8 pixels" in line


def test_few_are_silent(log):
    """4 of 100 are below the share of one in twenty; a single object is too few to tell."""
    run(UnassignedObjects(), 2000, [LARGE] * 25, [False] + [True] * 24)
    run(UnassignedObjects(), 8, [SMALL], [False])
    assert log == []
    run(UnassignedObjects(), 16, [SMALL], [False])
    assert len(log) == 1


def test_counts_are_read_rarely():
    """After 4, 8, ... 1,024 passes, then no more."""
    counter = UnassignedObjects()
    read = []
    counter._warn = lambda: read.append(counter.passes)
    run(counter, 3000, [LARGE], [True])
    assert read == [2**i for i in range(2, 11)]
    assert counter.is_done and counter.objects == 1024


METHODS = {
    "atss": (),
    "atss.IoU": ("MODEL.ATSS.POSITIVE_TYPE", "IoU"),
    "atss.SSC": ("MODEL.ATSS.POSITIVE_TYPE", "SSC"),
    "atss.TOPK": ("MODEL.ATSS.POSITIVE_TYPE", "TOPK"),
    "auto_assign": (),
    "feature_align": (),
    "fcos": (),
    "retinanet": (),
    "free_anchor": (),
}
FOLDERS = {"fcos": "fcos.mobilenetv2.bccd"}
# Between the points of all grids, which are multiples of 4 pixels; above and around them.
TINY = [[41.0, 41.0, 43.0, 43.0], [73.0, 25.0, 75.0, 27.0], [97.0, 65.0, 99.0, 67.0]]
PLAIN = [[20.0, 20.0, 60.0, 70.0], [70.0, 30.0, 120.0, 90.0], [10.0, 80.0, 60.0, 120.0]]


def model_of(method: str):
    name = method.split(".")[0]
    folder = ROOT / "playground" / FOLDERS.get(name, f"{name}.res18.shapes")
    cfg, build_model = open_experiment(folder, METHODS[method], "cpu")
    cfg.MODEL.WEIGHTS = ""
    torch.manual_seed(0)
    return build_model(cfg).train()


def count(model, boxes: list) -> tuple[int, int]:
    """(objects without a location, objects) of four passes over an image of noise."""
    model.unassigned = UnassignedObjects()
    target = Instances((128, 128), gt_boxes=Boxes(torch.tensor(boxes)))
    target.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    batch = [{"image": torch.zeros(3, 128, 128), "instances": target}]
    for _ in range(4):
        model(batch)
    return int(model.unassigned._found[0]), model.unassigned.objects


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("retinanet", "free_anchor")])
def test_each_method_counts(method, log):
    """Tiny boxes contain no centre of an anchor and no point; plain ones all do."""
    model = model_of(method)
    assert count(model, PLAIN) == (0, 12)
    assert log == []
    assert count(model, TINY) == (12, 12)
    assert len(log) == 1 and log[0].startswith("12 of 12 objects")
    assert copy.deepcopy(model).unassigned.is_done  # averaged weights copy the model


def test_retinanet_counts(log):
    """The best anchor of every box is positive (low quality), but it may prefer another box.

    Both boxes are best covered by the same anchors, which take the larger one: 1 of 2.
    """
    model = model_of("retinanet")
    assert count(model, PLAIN + TINY)[1] == 24
    assert count(model, [[40.0, 40, 60, 60], [41.0, 41, 43, 43]]) == (4, 8)


def test_free_anchor_has_a_bag_for_every_object(log):
    """So there is nothing to count."""
    model = model_of("free_anchor")
    target = Instances((128, 128), gt_boxes=Boxes(torch.tensor(TINY)))
    target.gt_classes = torch.zeros(3, dtype=torch.int64)
    model([{"image": torch.zeros(3, 128, 128), "instances": target}])
    assert model.unassigned.objects == 0 and log == []


@pytest.mark.parametrize("seed", range(5))
def test_locations_in_boxes_as_the_loss_lists_them(seed):
    """AutoAssign counts grid lines in a box; its loss lists the pairs of box and location."""
    model = model_of("auto_assign")
    torch.manual_seed(seed)
    features = [torch.zeros(1, 1, -(-96 // s), -(-160 // s)) for s in model.point_generator.strides]
    priors = model.priors(features)
    low = torch.rand(200, 2) * torch.tensor([180.0, 110.0]) - 10
    boxes = torch.cat([low, low + torch.rand(200, 2) * 12], dim=1)
    boxes[::3] = boxes[::3].round()  # sides on points, too
    pairs = inside_pairs(torch.cat(priors), boxes, torch.zeros(200, dtype=torch.int64))
    expected = torch.zeros(200, dtype=torch.bool)
    expected[pairs.box] = True
    assert 0 < expected.sum() < 200
    strides = model.point_generator.strides
    assert torch.equal(boxes_with_point(boxes, priors, strides), expected)
