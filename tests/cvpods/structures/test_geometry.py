"""Formulas on boxes: hand cases, broadcasting, boxes without area, gradients, invariances."""

import pytest
import torch
from torchvision import ops

from cvpods.structures import geometry

# (0, 0, 2, 2) beside (1, 0, 3, 2), and beside (5, 5, 6, 6), which lies apart.
FIRST = torch.tensor([[0.0, 0, 2, 2], [0.0, 0, 2, 2]])
SECOND = torch.tensor([[1.0, 0, 3, 2], [5.0, 5, 6, 6]])
PAIRS = [geometry.intersections, geometry.iou, geometry.generalized_iou]


def random_boxes(count, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=dtype) * 20
    sides = torch.rand(count, 2, generator=generator, dtype=dtype) * 30 + 0.5
    return torch.cat([corners, corners + sides], dim=1)


# -- hand cases ----------------------------------------------------------------------------------


def test_sizes_areas_centers():
    """(1, 2, 4, 8) is 3 wide and 6 high; its centre is (2.5, 5)."""
    box = torch.tensor([1.0, 2, 4, 8])
    assert geometry.sizes(box).tolist() == [3, 6]
    assert geometry.areas(box).item() == 18
    assert geometry.centers(box).tolist() == [2.5, 5]


@pytest.mark.parametrize("box", [[3.0, 3, 1, 1], [1.0, 1, 1, 5], [3.0, 0, 1, 9]])
def test_swapped_or_equal_corners_have_no_area(box):
    assert geometry.areas(torch.tensor(box)).item() == 0
    assert not geometry.has_area(torch.tensor(box))


def test_has_area():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 0]])
    assert geometry.has_area(boxes).tolist() == [True, False, False]


def test_iou_hand_case():
    """Shared 1 x 2 = 2 of 4 + 4 - 2 = 6; the second pair lies apart."""
    assert geometry.intersections(FIRST, SECOND).tolist() == [2, 0]
    shared, covered = geometry.intersections_and_unions(FIRST, SECOND)
    assert shared.tolist() == [2, 0] and covered.tolist() == [6, 5]
    torch.testing.assert_close(geometry.iou(FIRST, SECOND), torch.tensor([1 / 3, 0]))


def test_generalized_iou_hand_case():
    """Hull 3 x 2 = 6, all covered: 1/3. Hull 6 x 6 = 36, of which 4 + 1 are covered: -31/36."""
    enclosing = geometry.enclosing(FIRST, SECOND)
    assert enclosing.tolist() == [[0, 0, 3, 2], [0, 0, 6, 6]]
    giou = geometry.generalized_iou(FIRST, SECOND)
    torch.testing.assert_close(giou, torch.tensor([1 / 3, -31 / 36]))
    empty = geometry.empty_share(FIRST, SECOND, torch.tensor([6.0, 5.0]))
    torch.testing.assert_close(empty, torch.tensor([0.0, 31 / 36]))


def test_distances_to_sides():
    """(3, 4) in (1, 2, 7, 9): 2 from the left, 2 from the top, 4 and 5 from the other sides."""
    point, box = torch.tensor([3.0, 4]), torch.tensor([1.0, 2, 7, 9])
    distances = geometry.distances_to_sides(point, box)
    assert distances.tolist() == [2, 2, 4, 5]
    assert geometry.boxes_around(point, distances).tolist() == box.tolist()
    assert geometry.distances_to_sides(torch.tensor([0.0, 4]), box).tolist() == [-1, 2, 7, 5]


def test_is_inside_is_strict():
    box = torch.tensor([0.0, 0, 4, 4])
    points = torch.tensor([[2.0, 2], [0, 2], [4, 2], [2, 4.5]])
    assert geometry.is_inside(points, box).tolist() == [True, False, False, False]
    assert geometry.is_inside(points, box, margin=2.0).tolist() == [False] * 4
    assert geometry.is_inside(points, box, margin=-1.0).tolist() == [True] * 4


def test_inset():
    box = torch.tensor([0.0, 1, 4, 6])
    assert geometry.inset(box, 0.5).tolist() == [0.5, 1.5, 3.5, 5.5]
    assert geometry.inset(geometry.inset(box, 0.5), -0.5).tolist() == box.tolist()


BEYOND = torch.tensor([[-1.0, -2, 3, 9], [5, 1, 9, 2], [7, 5, 8, 6]])


def test_clip():
    """Into height 4, width 6: x in [0, 6], y in [0, 4]."""
    expected = [[0, 0, 3, 4], [5, 1, 6, 2], [6, 4, 6, 4]]
    assert geometry.clip(BEYOND, 4, 6).tolist() == expected
    assert BEYOND[0].tolist() == [-1, -2, 3, 9]


def test_clip_to_several_sizes():
    """Two images, (4, 6) and (3, 2), with the same boxes."""
    heights, widths = torch.tensor([[4], [3]]), torch.tensor([[6], [2]])
    clipped = geometry.clip(BEYOND.expand(2, 3, 4), heights, widths)
    assert torch.equal(clipped[0], geometry.clip(BEYOND, 4, 6))
    assert torch.equal(clipped[1], geometry.clip(BEYOND, 3, 2))


def test_clip_keeps_nan():
    clipped = geometry.clip(torch.tensor([torch.nan, torch.inf, -torch.inf, 1]), 4, 6)
    assert clipped[0].isnan() and clipped[1:].tolist() == [4, 0, 1]


# -- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", PAIRS)
@pytest.mark.parametrize(("n", "m"), [(3, 5), (0, 5), (3, 0), (0, 0)])
def test_tables_of_pairs(function, n, m):
    first, second = random_boxes(n), random_boxes(m, seed=1)
    table = function(first[:, None], second)
    assert table.shape == (n, m)
    for i in range(n):
        assert torch.equal(table[i], function(first[i].expand(m, 4), second))


@pytest.mark.parametrize("leading", [(0,), (2, 0), (2, 3)])
def test_leading_dimensions(leading):
    boxes = torch.zeros(*leading, 4)
    points = torch.zeros(*leading, 2)
    for function in (geometry.areas, geometry.has_area):
        assert function(boxes).shape == leading
    for function in (geometry.sizes, geometry.centers):
        assert function(boxes).shape == (*leading, 2)
    for function in PAIRS:
        assert function(boxes, boxes).shape == leading
    assert geometry.is_inside(points, boxes).shape == leading
    for result in (
        geometry.enclosing(boxes, boxes),
        geometry.distances_to_sides(points, boxes),
        geometry.boxes_around(points, boxes),
        geometry.inset(boxes, 1.0),
        geometry.clip(boxes, 4, 6),
    ):
        assert result.shape == (*leading, 4)


def test_points_and_boxes_broadcast():
    points, boxes = torch.rand(7, 2), random_boxes(3)[:, None]
    assert geometry.distances_to_sides(points, boxes).shape == (3, 7, 4)
    assert geometry.is_inside(points, boxes).shape == (3, 7)


# -- boxes without area, gradients ---------------------------------------------------------------


@pytest.mark.parametrize("box", [[1.0, 1, 1, 1], [1.0, 1, 1, 5]])
def test_boxes_without_area(box):
    empty = torch.tensor([box])
    assert geometry.iou(empty, empty).tolist() == [0]
    assert geometry.iou(empty, torch.tensor([[0.0, 0, 9, 9]])).tolist() == [0]
    assert geometry.generalized_iou(empty, empty).isfinite().all()


@pytest.mark.parametrize("function", PAIRS)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0, 1, 1, 1], [1.0, 1, 1, 1]),
        ([1.0, 1, 1, 5], [0.0, 0, 9, 9]),
        ([0.0, 0, 1, 1], [5.0, 5, 6, 6]),
        ([0.0, 0, 1, 1], [0.0, 0, 1, 1]),
        ([3.0, 3, 1, 1], [0.0, 0, 4, 4]),
    ],
)
def test_gradients_are_finite(function, first, second):
    first, second = (torch.tensor(box, requires_grad=True) for box in (first, second))
    function(first, second).backward()
    assert first.grad.isfinite().all() and second.grad.isfinite().all()


@pytest.mark.parametrize("function", PAIRS)
def test_gradients(function):
    first, second = (random_boxes(6, seed, torch.float64).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(function, (first, second))


# -- against torchvision, invariances ------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_equals_torchvision(seed):
    first, second = random_boxes(20, seed), random_boxes(30, seed + 100)
    table = geometry.iou(first[:, None], second)
    assert torch.equal(table, ops.box_iou(first, second))
    torch.testing.assert_close(
        geometry.generalized_iou(first[:, None], second),
        ops.generalized_box_iou(first, second),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("function", [geometry.iou, geometry.generalized_iou])
def test_invariances(function):
    """Neither order, nor place, nor a scale, nor a mirror image changes the overlap of a pair."""
    first, second = random_boxes(50, 1, torch.float64), random_boxes(50, 2, torch.float64)
    expected = function(first, second)
    shift = torch.tensor([3.0, -7, 3, -7])
    mirror = torch.tensor([-1.0, 1, -1, 1])
    flipped = [(boxes * mirror)[:, [2, 1, 0, 3]] for boxes in (first, second)]
    for changed in (
        function(second, first),
        function(first + shift, second + shift),
        function(first * 2.5, second * 2.5),
        function(*flipped),
    ):
        torch.testing.assert_close(changed, expected)
    order = torch.randperm(50)
    assert torch.equal(function(first[order], second[order]), expected[order])
