"""FreeAnchor's bags and found objects: cases by hand, slow references, ties, slices, edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from cvpods.structures.slices import slices
from cvpods_ext.kernels.bags import GROUP, FoundObjects, anchor_bags, found_objects
from tests.reference.free_anchor import found_loop
from tests.seeds import each_seed

CPU = torch.device("cpu")
EVERYTHING = slice(None)
GT = torch.tensor([[0.0, 0, 10, 10]])
ZERO = torch.zeros(1, dtype=torch.int64)


def whole_boxes(seed: int, count: int, side: int = 60) -> Tensor:
    """Boxes of whole numbers: many equal IoUs, and equal in any arithmetic. float64."""
    random = torch.Generator().manual_seed(seed)
    low = torch.randint(0, side, (count, 2), generator=random)
    return torch.cat([low, low + torch.randint(1, 40, (count, 2), generator=random)], 1).double()


def around(seed: int, count: int, noise: float = 4.0) -> Tensor:
    """Boxes within `noise` of (20, 20, 60, 60): their IoUs lie on both sides of 0.6. float64."""
    random = torch.Generator().manual_seed(seed)
    box = torch.tensor([20.0, 20, 60, 60], dtype=torch.float64)
    return box + noise * torch.randn(count, 4, generator=random, dtype=torch.float64)


def heights(*values: float) -> Tensor:
    """Boxes 10 wide at the origin: their IoU with (0, 0, 10, 10) is a tenth of their height."""
    return torch.tensor([[0.0, 0, 10, value] for value in values])


# -- bags ----------------------------------------------------------------------------------------


def test_bags_by_hand():
    """Box 0 = (0, 0, 10, 10), box 1 = (10, 0, 30, 10), bags of 2.

    anchor            IoU with box 0        IoU with box 1
    (0, 0, 10, 5)     50 / 100 = .5         0
    (5, 0, 15, 10)    50 / 150 = .3333      50 / 250 = .2
    (0, 0, 10, 8)     80 / 100 = .8         0
    (10, 0, 20, 10)   0                     100 / 200 = .5
    (20, 0, 40, 10)   0                     100 / 300 = .3333
    """
    anchors = torch.tensor(
        [[0.0, 0, 10, 5], [5, 0, 15, 10], [0, 0, 10, 8], [10, 0, 20, 10], [20, 0, 40, 10]]
    )
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 0, 30, 10]])
    bags = anchor_bags(anchors, boxes, 2)
    assert bags.dtype == torch.int64
    assert bags.sort().values.tolist() == [[0, 2], [3, 4]]
    assert anchor_bags(anchors, boxes, 1).tolist() == [[2], [3]]
    assert anchor_bags(anchors, boxes, 3).sort().values.tolist() == [[0, 1, 2], [1, 3, 4]]


def test_of_equal_anchors_the_first_are_taken():
    """Ten anchors of IoU 1/4, two of them better; of the others the first by index."""
    anchors = torch.tensor([[0.0, 0, 5, 5]]).repeat(10, 1)
    anchors[[4, 7]] = torch.tensor([0.0, 0, 5, 8])
    for size, expected in [(2, [4, 7]), (4, [0, 1, 4, 7]), (7, [0, 1, 2, 3, 4, 5, 7])]:
        assert anchor_bags(anchors, GT, size).sort().values.tolist() == [expected]


def test_ties_across_groups():
    """All anchors equal, in more groups than the bag has members: the first ones, in order."""
    anchors = torch.tensor([[0.0, 0, 5, 5]]).repeat(7 * GROUP + 3, 1)
    assert anchor_bags(anchors, GT, 3).sort().values.tolist() == [[0, 1, 2]]
    anchors[6 * GROUP] = GT[0]
    assert anchor_bags(anchors, GT, 3).sort().values.tolist() == [[0, 1, 6 * GROUP]]


def test_box_away_from_every_anchor_has_a_bag_all_the_same():
    """All IoUs are 0: the first anchors."""
    anchors = whole_boxes(0, 2 * GROUP + 1)
    far = torch.tensor([[1000.0, 1000, 1010, 1010]], dtype=torch.float64)
    assert anchor_bags(anchors, far, 5).sort().values.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("box", [[5, 5, 5, 30], [5, 5, 30, 5], [5, 5, 5, 5], [0, 0, 0, 0]])
def test_zero_area_box_has_a_bag_all_the_same(box):
    anchors = whole_boxes(1, 100)
    boxes = torch.tensor([box, [10, 10, 30, 30]], dtype=torch.float64)
    bags = anchor_bags(anchors, boxes, 4).sort().values
    assert bags[0].tolist() == [0, 1, 2, 3]
    assert torch.equal(bags[1:], anchor_bags(anchors, boxes[1:], 4).sort().values)


@pytest.mark.parametrize("count", [1, 3, GROUP, GROUP + 1])
def test_bag_larger_than_the_number_of_anchors(count):
    bags = anchor_bags(whole_boxes(2, count), whole_boxes(3, 4), 500)
    assert bags.sort().values.tolist() == [list(range(count))] * 4


@pytest.mark.parametrize(
    ("boxes", "anchors", "size"), [(0, 9, 5), (0, 0, 0), (4, 0, 0), (4, 1, 1), (0, 1, 1)]
)
def test_empty_bags(boxes, anchors, size):
    bags = anchor_bags(whole_boxes(0, anchors), whole_boxes(1, boxes), 5)
    assert bags.shape == (boxes, size) and bags.dtype == torch.int64


@pytest.mark.parametrize("anchors", [3 * GROUP, 3 * GROUP + 7, 3 * GROUP - 1])
@each_seed(20)
def test_bags_match_a_stable_sort(seed, anchors):
    """Slices of two boxes each."""
    bounds = {"bags_at_once": 1, "elements_at_once": 2 * anchors}
    anchors, boxes = whole_boxes(seed, anchors), whole_boxes(100 + seed, 7)
    size = (1, 9, 50, 150)[seed % 4]
    order = box_iou(boxes, anchors).sort(dim=1, descending=True, stable=True).indices
    actual = anchor_bags(anchors, boxes, size, **bounds).sort().values
    assert torch.equal(actual, order[:, :size].sort().values)


def test_slices_do_not_change_the_bags():
    anchors, boxes = whole_boxes(4, 150), whole_boxes(5, 11)
    expected = anchor_bags(anchors, boxes, 20).sort().values
    for bound in (1, 3 * 150, 4 * 150 - 1):
        bags = anchor_bags(anchors, boxes, 20, bags_at_once=1, elements_at_once=bound)
        assert torch.equal(bags.sort().values, expected)


def test_permuting_boxes_permutes_the_bags():
    anchors, boxes = whole_boxes(6, 150), whole_boxes(7, 6)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    bags = anchor_bags(anchors, boxes, 20).sort().values
    assert torch.equal(bags[order], anchor_bags(anchors, boxes[order], 20).sort().values)


def test_permuting_anchors_renames_the_members():
    anchors, boxes = around(8, 150), around(9, 6)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    bags = anchor_bags(anchors, boxes, 20).sort().values
    permuted = anchor_bags(anchors[order], boxes, 20)
    assert torch.equal(bags, order[permuted].sort().values)


# -- objects found -------------------------------------------------------------------------------


@pytest.mark.parametrize("last_write", [False, True])
def test_objects_found_by_hand(last_write):
    """IoUs .3, .65, .7, .8: t2 = .8, P = 0, .05 / .2, .1 / .2, 1."""
    found = found_objects(heights(3, 6.5, 7, 8), GT, ZERO, 2, last_write=last_write)
    assert found.best_iou.tolist() == [[pytest.approx(0.8)]]
    expected = pytest.approx([0, 0.25, 0.5, 1], abs=1e-6)
    assert found.object_probability(EVERYTHING).tolist() == [expected]
    table = found[EVERYTHING]
    assert table[:, 0].tolist() == expected and table[:, 1].tolist() == [0] * 4


def test_another_threshold():
    """t1 = .2, IoUs .1, .3, .6: t2 = .6, P = 0, .1 / .4, 1."""
    found = found_objects(heights(1, 3, 6), GT, ZERO, 1, iou_threshold=0.2)
    assert found.object_probability(EVERYTHING).tolist() == [pytest.approx([0, 0.25, 1], abs=1e-6)]


@pytest.mark.parametrize(
    ("best", "least", "most"), [(5.9, 0, 0), (6.0, 0, 0), (6.000001, 0, 1), (6.00001, 0.5, 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_best_iou_about_the_threshold(best, least, most, dtype):
    """t2 - t1 would vanish, or turn negative: below and at t1 nothing is found, and no NaN."""
    found = found_objects(heights(best, 1, 0).to(dtype), GT.to(dtype), ZERO, 1)
    table = found.object_probability(EVERYTHING)
    assert table.dtype == dtype and table[0, 1:].tolist() == [0, 0]
    assert least <= table[0, 0].item() <= most
    assert found.best_iou.item() > 0.6
    assert torch.equal(found[EVERYTHING], table.t())


def clash(last_write: bool, order: tuple[int, ...] = (0, 1, 2)) -> FoundObjects:
    """Predicted boxes of heights 10, 8, 7; boxes of heights 8, 10 and 7, classes 1, 1, 0.

                height 10         8                  7
    box 0, h 8  .8  -> 1/2        1    -> 1          .875 -> .6875
    box 1, h 10 1   -> 1          .8   -> 1/2        .7   -> 1/4
    box 2, h 7  .7  -> 1/4        .875 -> .6875      1    -> 1
    """
    gt, classes = heights(8, 10, 7)[list(order)], torch.tensor([1, 1, 0])[list(order)]
    return found_objects(heights(10, 8, 7), gt, classes, 3, last_write=last_write)


def test_per_class_is_the_maximum_over_boxes_of_a_class():
    expected = [[0.25, 1, 0], [0.6875, 1, 0], [1, 0.6875, 0]]
    for order in [(0, 1, 2), (2, 1, 0), (1, 2, 0)]:
        actual = clash(last_write=False, order=order)[EVERYTHING]
        assert actual.shape == (3, 3)
        torch.testing.assert_close(actual, torch.tensor(expected))


def test_last_write_takes_the_last_box_of_a_class():
    first_then_second = [[0.25, 1, 0], [0.6875, 0.5, 0], [1, 0.25, 0]]
    second_then_first = [[0.25, 0.5, 0], [0.6875, 1, 0], [1, 0.6875, 0]]
    for order, expected in [((0, 1, 2), first_then_second), ((2, 1, 0), second_then_first)]:
        actual = clash(last_write=True, order=order)[EVERYTHING]
        torch.testing.assert_close(actual, torch.tensor(expected))


def test_last_write_passes_over_boxes_that_the_anchor_does_not_find():
    """The last box of the class has IoU 3/8 with the first predicted box, below t1: P = 0."""
    gt, classes = heights(10, 3), torch.tensor([0, 0])
    found = found_objects(heights(8, 3), gt, classes, 1, last_write=True)
    assert found.object_probability(EVERYTHING).tolist() == [[1, 0], [0, 1]]
    assert found[EVERYTHING].tolist() == [[1], [1]]


@pytest.mark.parametrize("last_write", [False, True])
@each_seed(20)
def test_objects_found_match_the_loop(seed, last_write):
    """Slices of a few predicted boxes each; classes clash."""
    count, threshold = 1 + seed % 6, (0.6, 0.5, 0.75)[seed % 3]
    boxes, gt = around(seed, 40), around(100 + seed, count)
    classes = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(seed))
    found = found_objects(
        boxes,
        gt,
        classes,
        3,
        iou_threshold=threshold,
        last_write=last_write,
        elements_at_once=37,
    )
    expected = found_loop(boxes.tolist(), gt.tolist(), threshold)
    torch.testing.assert_close(
        found.object_probability(EVERYTHING), torch.tensor(expected).double()
    )
    for j, row in enumerate(found[EVERYTHING].tolist()):
        for c, value in enumerate(row):
            values = [expected[i][j] for i in range(count) if classes[i] == c]
            if last_write:
                values = [v for v in values if v > 0][-1:]
            assert value == pytest.approx(max(values, default=0.0), abs=1e-6)


@pytest.mark.parametrize("last_write", [False, True])
def test_slices_do_not_change_what_is_found(last_write):
    boxes, gt, classes = around(1, 50), around(2, 5), torch.tensor([0, 1, 0, 1, 0])
    whole = found_objects(boxes, gt, classes, 2, last_write=last_write)
    assert 0 < (whole.object_probability(EVERYTHING) > 0).sum() < 250
    sliced = found_objects(boxes, gt, classes, 2, last_write=last_write, elements_at_once=32)
    assert torch.equal(whole.best_iou, sliced.best_iou)
    parts = list(slices(50, 5, CPU, elements=32))
    assert len(parts) == 9
    joined = torch.cat([sliced.object_probability(part) for part in parts], dim=1)
    assert torch.equal(joined, whole.object_probability(EVERYTHING))
    assert torch.equal(torch.cat([sliced[part] for part in parts]), whole[EVERYTHING])


def test_permuting_boxes_permutes_what_is_found():
    boxes, gt, classes = around(3, 50), around(4, 5), torch.tensor([0, 1, 0, 1, 0])
    order = torch.tensor([3, 0, 4, 1, 2])
    found = found_objects(boxes, gt, classes, 2)
    permuted = found_objects(boxes, gt[order], classes[order], 2)
    assert torch.equal(
        found.object_probability(EVERYTHING)[order], permuted.object_probability(EVERYTHING)
    )
    assert torch.equal(found[EVERYTHING], permuted[EVERYTHING])


@pytest.mark.parametrize("last_write", [False, True])
def test_nothing_to_find(last_write):
    none, no_class = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    without_boxes = found_objects(heights(1, 2, 3), none, no_class, 2, last_write=last_write)
    assert without_boxes.object_probability(EVERYTHING).shape == (0, 3)
    assert without_boxes[EVERYTHING].tolist() == [[0, 0]] * 3
    without_anchors = found_objects(none, GT, ZERO, 2, last_write=last_write)
    assert without_anchors.object_probability(EVERYTHING).shape == (1, 0)
    assert without_anchors[EVERYTHING].shape == (0, 2)


def test_zero_area_boxes_are_never_found():
    """Not even by a predicted box that is the same point."""
    gt = torch.tensor([[5.0, 5, 5, 5], [0, 0, 0, 10], [0, 0, 10, 10]])
    boxes = torch.tensor([[5.0, 5, 5, 5], [0, 0, 10, 9], [0, 0, 0, 10]])
    found = found_objects(boxes, gt, torch.tensor([0, 0, 1]), 2)
    assert found.object_probability(EVERYTHING).tolist() == [[0] * 3, [0] * 3, [0, 1, 0]]


def test_no_gradient_flows_through_what_is_found():
    boxes = heights(7, 8).requires_grad_()
    found = found_objects(boxes, GT, ZERO, 1)
    assert not found.best_iou.requires_grad
    assert not found.object_probability(EVERYTHING).requires_grad
    assert not found[EVERYTHING].requires_grad
