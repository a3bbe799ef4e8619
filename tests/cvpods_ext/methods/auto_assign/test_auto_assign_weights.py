"""AutoAssign's center prior and negative weights: by hand, against a slow loop, at the edge."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cvpods_ext.kernels.pairs import PAIRS_AT_ONCE, Pairs, best_iou, inside_pairs
from cvpods_ext.methods.auto_assign.loss import found_table, log_center_prior
from tests.reference.auto_assign import center_prior, found_loop
from tests.reference.boxes import iou

GT = torch.tensor([[0.0, 0, 10, 10]])
ROW = torch.tensor([[2.0, 5], [4, 5], [6, 5], [8, 5]])
NO_AREA = [[5, 2, 5, 8], [2, 5, 8, 5], [5, 5, 5, 5], [8, 2, 2, 8], [8, 8, 2, 2]]
NO_AREA_IDS = ["no width", "no height", "point", "left of itself", "inside out"]


def heights(*values: float) -> Tensor:
    """Boxes 10 wide at the origin: their IoU with (0, 0, 10, 10) is a tenth of their height."""
    return torch.tensor([[0.0, 0, 10, value] for value in values])


def found(
    predicted: Tensor,
    gt_boxes: Tensor,
    gt_classes: list[int],
    num_classes: int = 1,
    points: Tensor = ROW,
    at_once: int = PAIRS_AT_ONCE,
) -> Tensor:
    pairs = inside_pairs(points, gt_boxes, torch.tensor(gt_classes).long())
    return found_table(predicted, pairs, num_classes, pairs_at_once=at_once)


class Image:
    """Locations on a grid of whole numbers, boxes of quarters, predicted boxes close to boxes."""

    def __init__(self, seed: int, count: int = 5, num_classes: int = 2) -> None:
        random = torch.Generator().manual_seed(seed)
        y, x = torch.meshgrid(torch.arange(7.0), torch.arange(9.0), indexing="ij")
        self.points = torch.stack([x, y], dim=-1).view(-1, 2).double() * 8
        low = torch.randint(0, 120, (count, 2), generator=random) / 4
        size = torch.randint(1, 160, (count, 2), generator=random) / 4
        self.boxes = torch.cat([low, low + size], dim=1).double()
        self.classes = torch.randint(0, num_classes, (count,), generator=random)
        near = self.boxes[torch.randint(0, count, (63,), generator=random)]
        self.predicted = near + torch.randn(63, 4, generator=random, dtype=torch.float64)

    def found(
        self, order: list[int] | None = None, num_classes: int = 2, at_once: int = PAIRS_AT_ONCE
    ) -> Tensor:
        order = list(range(len(self.boxes))) if order is None else order
        classes = self.classes[order].tolist()
        return found(self.predicted, self.boxes[order], classes, num_classes, self.points, at_once)


def one_by_one(points: Tensor, boxes: Tensor) -> Pairs:
    """Pairs (i, i) of the i-th location and the i-th box."""
    both = torch.arange(len(boxes))
    return Pairs(both, both, boxes, both, torch.zeros_like(both), 1, len(points))


# -- center prior --------------------------------------------------------------------------------


def test_center_prior_by_hand():
    """Box (0, 0, 32, 16), centre (16, 8), stride 8.

    location (16, 8): d = (0, 0), mu 0, sigma 1: 0
    location (24, 4): d = (1, -.5): -(1 + .25) / 2 = -.625
    the same, mu = (.5, .5), sigma = (2, .5): -(.25 / 8 + 1 / .5) = -2.03125
    the same at stride 16: d = (.5, -.25): -(0 / 8 + .5625 / .5) = -1.125
    """
    points = torch.tensor([[16.0, 8], [24, 4], [24, 4], [24, 4]])
    strides = torch.tensor([8.0, 8, 8, 16])
    boxes = torch.tensor([[0.0, 0, 32, 16]]).repeat(4, 1)
    mu = torch.tensor([[0, 0], [0, 0], [0.5, 0.5], [0.5, 0.5]])
    sigma = torch.tensor([[1, 1], [1, 1], [2, 0.5], [2, 0.5]])
    pairs = one_by_one(points, boxes)
    log_prior = log_center_prior(pairs, points, strides, mu, sigma)
    assert log_prior.tolist() == pytest.approx([0, -0.625, -2.03125, -1.125])
    assert torch.equal(log_prior, log_center_prior(pairs, points, strides, mu, -sigma))


def test_center_prior_matches_the_loop():
    random = torch.Generator().manual_seed(0)
    points, mu, sigma = (torch.rand(30, 2, generator=random).double() for _ in range(3))
    points, sigma = 60 * points, sigma + 0.5
    strides = torch.tensor([8.0, 16, 32]).double().repeat(10)
    corners = torch.rand(30, 2, generator=random).double() * 40
    boxes = torch.cat([corners, corners + 5 + 20 * mu], dim=1)
    arguments = (points, strides, boxes, mu, sigma)
    actual = log_center_prior(one_by_one(points, boxes), points, strides, mu, sigma).exp().tolist()
    expected = [
        center_prior(*(values[k].tolist() for values in arguments)) for k in range(len(points))
    ]
    assert actual == pytest.approx(expected, rel=1e-9)
    trained = [t.requires_grad_() for t in (mu, sigma)]
    assert torch.autograd.gradcheck(
        lambda mu, sigma: log_center_prior(
            one_by_one(points, boxes.detach()), points, strides, mu, sigma
        ),
        trained,
    )


@pytest.mark.parametrize("value", [0.0, 1e-30, -1e-30])
def test_sigma_of_zero_is_finite(value):
    mu = torch.zeros(2, 2, requires_grad=True)
    sigma = torch.full((2, 2), value, requires_grad=True)
    points, strides = torch.tensor([[5.0, 5], [8, 8]]), torch.tensor([8.0, 8])
    log_prior = log_center_prior(one_by_one(points, GT.repeat(2, 1)), points, strides, mu, sigma)
    assert log_prior[0] == 0 and -math.inf < log_prior[1] < -1e10
    for gradient in torch.autograd.grad(log_prior.exp().sum(), (mu, sigma)):
        assert gradient.isfinite().all()


# -- the largest IoU -----------------------------------------------------------------------------


def test_best_iou_by_hand():
    """IoU .8, 2/3 with the second box, 0, not asked for, 2/3 with the first; asked in any order."""
    gt_boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    predicted = torch.tensor(
        [[0.0, 0, 10, 8], [20, 0, 35, 10], [50, 0, 60, 10], [0, 0, 10, 10], [0, 0, 10, 15]]
    )
    best = best_iou(predicted, gt_boxes, torch.tensor([4, 0, 2, 0, 1, 1]))
    assert best.tolist() == pytest.approx([0.8, 2 / 3, 0, 0, 2 / 3])


@pytest.mark.parametrize("bound", [None, 1, 11, 100])
@pytest.mark.parametrize("seed", range(3))
def test_best_iou_matches_the_loop_in_any_slices(seed, bound):
    image = Image(seed)
    boxes, predicted = image.boxes.tolist(), image.predicted.tolist()
    expected = [
        0.0 if j % 3 == 1 else max(iou(b, p) for b in boxes) for j, p in enumerate(predicted)
    ]
    location = torch.tensor([j for j in range(63) if j % 3 != 1]).flip(0)
    actual = best_iou(image.predicted, image.boxes, location, bound).tolist()
    assert actual == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("box", NO_AREA, ids=NO_AREA_IDS)
def test_best_iou_without_area(box):
    """A box of no area, predicted alike or not; it is in no other box's way."""
    flat = torch.tensor([box], dtype=torch.float32)
    here = torch.zeros(1, dtype=torch.int64)
    for predicted in (flat, GT):
        assert best_iou(predicted, flat, here).tolist() == [0]
    assert best_iou(GT, torch.cat([flat, GT]), here).tolist() == [1]


@pytest.mark.parametrize("box", NO_AREA[:3], ids=NO_AREA_IDS[:3])
def test_best_iou_of_a_flat_predicted_box(box):
    here = torch.zeros(1, dtype=torch.int64)
    assert best_iou(torch.tensor([box], dtype=torch.float32), GT, here).tolist() == [0]


def test_best_iou_of_nothing():
    nothing = torch.zeros(0, dtype=torch.int64)
    for predicted, boxes in ((GT, GT), (GT, torch.zeros(0, 4)), (torch.zeros(0, 4), GT)):
        assert best_iou(predicted, boxes, nothing).tolist() == [0] * len(predicted)


# -- objects found -------------------------------------------------------------------------------


def test_found_by_hand():
    """IoUs 0, .5, .75: 1 / (1 - IoU) = 1, 2, 4: f = 0, 1/3, 1; class 1 of 2.

    The fourth location predicts the box exactly, but lies outside.
    """
    gt_boxes = torch.tensor([[0.0, 0, 7, 10]])
    predicted = torch.tensor([[20.0, 0, 30, 10], [0, 0, 7, 5], [0, 0, 7, 7.5], [0, 0, 7, 10]])
    table = found(predicted, gt_boxes, [1], num_classes=2)
    assert table.shape == (4, 2) and table[:, 0].tolist() == [0] * 4
    assert table[:, 1].tolist() == pytest.approx([0, 1 / 3, 1, 0], abs=1e-6)


def test_exact_prediction_takes_it_all():
    """1 - IoU = 0 counts as 1e-12: f = 1, of the others next to nothing, and nothing infinite."""
    table = found(heights(10, 9, 5, 10), GT, [0])
    assert table[:, 0].tolist() == pytest.approx([1, 0, 0, 1], abs=1e-8)
    exact = found(heights(10, 9, 5, 8).double(), GT.double(), [0], points=ROW.double())
    assert exact[1].item() == pytest.approx(8e-12, rel=1e-3) and exact[2] < 1e-20


@pytest.mark.parametrize("height", [10, 7, 0])
def test_equal_ious_are_all_found(height):
    """Exact, close, and without overlap: f = 1."""
    assert found(heights(*[height] * 4), GT, [0]).tolist() == [[1]] * 4


@pytest.mark.parametrize("height", [10, 3, 0])
def test_single_location_is_found(height):
    """However badly it predicts."""
    box = torch.tensor([[3.0, 0, 5, 10]])
    table = found(heights(height, height, 5, 5), box, [0])
    assert table.flatten().tolist() == [0, 1, 0, 0]


def test_box_without_location_is_found_by_nobody():
    """Nor does it change another box."""
    tiny = torch.tensor([[2.5, 4, 3.5, 6]])
    predicted = heights(9, 8, 7, 6)
    assert found(predicted, tiny, [0]).tolist() == [[0]] * 4
    alone = found(predicted, GT, [1], 2)
    for boxes, classes in ((torch.cat([tiny, GT]), [0, 1]), (torch.cat([GT, tiny]), [1, 0])):
        assert torch.equal(found(predicted, boxes, classes, 2), alone)


@pytest.mark.parametrize("box", NO_AREA, ids=NO_AREA_IDS)
def test_box_without_area_is_found_by_nobody(box):
    flat = torch.tensor([box], dtype=torch.float32)
    predicted = torch.cat([flat, heights(8, 7, 6)])
    assert found(predicted, flat, [0]).tolist() == [[0]] * 4
    alone = found(predicted, GT, [0])
    assert alone.isfinite().all()
    assert torch.equal(found(predicted, torch.cat([flat, GT]), [0, 0]), alone)
    assert torch.equal(found(predicted, torch.cat([GT, flat]), [0, 0]), alone)


def test_predicted_boxes_without_area():
    """IoU 0, the least that can be found."""
    predicted = torch.tensor([[2.0, 5, 2, 5], [4, 5, 4, 9], [0, 0, 10, 5], [0, 0, 10, 6]])
    table = found(predicted, GT, [0]).flatten()
    assert table.tolist() == pytest.approx([0, 0, 1 / 1.5, 1], abs=1e-6)


def test_of_one_class_the_last_box_counts():
    """Box A = (0, 0, 10, 10) contains all of ROW, box B = (3, 0, 20, 10) all but the first.

    predicted        IoU with A   with B     1 / (1 - best)   f of A    f of B
    (0, 0, 10, 5)    .5           35 / 185   2                0         -
    (0, 0, 10, 6)    .6           42 / 188   2.5              1/4       0
    (0, 0, 10, 7)    .7           49 / 191   3.3333           2/3       5/9
    (0, 0, 10, 7.5)  .75          .2717      4                1         1
    """
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 20, 10]])
    predicted = heights(5, 6, 7, 7.5)
    of_a, of_b = [0, 0.25, 2 / 3, 1], [0, 0, 5 / 9, 1]
    table = found(predicted, boxes, [0, 0]).flatten()
    assert table.tolist() == pytest.approx(of_b, abs=1e-5)
    table = found(predicted, boxes.flip(0), [0, 0]).flatten()
    assert table.tolist() == pytest.approx(of_a, abs=1e-5)
    for order, classes in (([0, 1], [0, 1]), ([1, 0], [1, 0])):
        table = found(predicted, boxes[order], classes, 2)
        assert table[:, 0].tolist() == pytest.approx(of_a, abs=1e-5)
        assert table[:, 1].tolist() == pytest.approx(of_b, abs=1e-5)


def test_iou_is_the_largest_with_any_box_of_the_image():
    """The second box lies elsewhere, of another class; the first location predicts it exactly.

    Best IoUs 1, .5, .75, 0: nearly all of f is the first location's, also for the first box.
    Without the second box 0, .5, .75, 0.
    """
    elsewhere = torch.tensor([[100.0, 100, 120, 120]])
    predicted = torch.cat([elsewhere, heights(5, 7.5), elsewhere + 50])
    table = found(predicted, torch.cat([GT, elsewhere]), [0, 1], 2)
    assert table[:, 0].tolist() == pytest.approx([1, 0, 0, 0], abs=1e-8)
    assert table[:, 1].tolist() == [0] * 4
    alone = found(predicted, GT, [0])
    assert alone.flatten().tolist() == pytest.approx([0, 1 / 3, 1, 0], abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("seed", range(10))
def test_found_table_matches_the_loop(seed, count):
    """Classes clash."""
    image = Image(seed, count)
    expected = found_loop(
        *(t.tolist() for t in (image.predicted, image.points, image.boxes, image.classes)), 2
    )
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(image.found(), expected, rtol=1e-9, atol=1e-12)
    pairs = inside_pairs(image.points, image.boxes, image.classes)
    assert count < 6 or (pairs.location.bincount() > 1).any()


@pytest.mark.parametrize("bound", [1, 10, 40])
@pytest.mark.parametrize("seed", range(5))
def test_chunks_do_not_change_what_is_found(seed, bound):
    """Nor which box of a class is the last, where they lie in different chunks."""
    image = Image(seed, 7)
    expected = image.found()
    assert 0 < (expected > 0).sum() < expected.numel()
    assert torch.equal(image.found(at_once=bound), expected)


def test_permuting_boxes_of_other_classes_changes_nothing():
    """Classes 0, 1, 0, 1, 2: every order that keeps those of one class in theirs."""
    image = Image(21)
    image.classes = torch.tensor([0, 1, 0, 1, 2])
    expected = image.found(num_classes=3)
    for order in ([0, 2, 1, 3, 4], [4, 1, 3, 0, 2], [1, 0, 4, 3, 2]):
        assert torch.equal(image.found(order, num_classes=3), expected)


def test_nothing_to_find():
    table = found(heights(1, 2, 3, 4), torch.zeros(0, 4), [], 3)
    assert table.tolist() == [[0] * 3] * 4
    table = found(torch.zeros(0, 4), GT, [0], 3, points=torch.zeros(0, 2))
    assert table.shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_gradient_flows_through_what_is_found(dtype):
    predicted, boxes = heights(5, 6, 7, 8).to(dtype).requires_grad_(), GT.to(dtype)
    table = found(predicted, boxes, [0], points=ROW.to(dtype))
    assert table.dtype == dtype and not table.requires_grad
    assert torch.equal(predicted, heights(5, 6, 7, 8).to(dtype))
