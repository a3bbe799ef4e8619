"""FCOS' positives: cases by hand and a slow loop; and what every way to choose positives keeps."""

from __future__ import annotations

import math

import pytest
import torch

from cvpods_ext.kernels.assignment import Assignment
from cvpods_ext.methods.atss.compared.scale_range import scale_range_assign
from tests.cvpods_ext.methods.atss.test_atss_assign import grid, random_boxes
from tests.reference.boxes import iou
from tests.reference.positives import scale_range_assign_loop
from tests.seeds import each_seed


def exact_boxes(seed: int, count: int) -> torch.Tensor:
    """Random boxes in eighths of a pixel: mirrored or scaled, they lose no digit."""
    return (random_boxes(seed, count) * 8).round() / 8


def rename(index: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
    """Box g becomes names[g]; background and ignored stay what they are."""
    return torch.where(index >= 0, names[index.clamp(min=0)], index)


class AssignerTests:
    """A subclass says how boxes are assigned, and the same by a loop.

    Anchors of strides 8, 16, 32 on an image of 128 x 160, 16 * 20 + 8 * 10 + 4 * 5 = 420 of them.
    """

    def assign(self, anchors, sizes, boxes, scale: float = 1.0) -> Assignment:
        """Of an image that was enlarged by `scale`."""
        raise NotImplementedError

    def loop(self, anchors, sizes, boxes) -> list[int]:
        raise NotImplementedError

    @each_seed(20)
    def test_matches_loop(self, seed):
        anchors, sizes = grid()
        boxes = random_boxes(seed, 1 + seed % 7)
        index, quality = self.assign(anchors, sizes, boxes)
        expected = self.loop(anchors.tolist(), sizes, boxes.tolist())
        assert index.tolist() == expected and max(expected) >= 0
        pairs = zip(anchors.tolist(), expected, strict=True)
        overlaps = [iou(anchor, boxes[g].tolist()) if g >= 0 else 0.0 for anchor, g in pairs]
        assert quality.tolist() == pytest.approx(overlaps, abs=1e-5)

    @pytest.mark.parametrize("boxes, anchors", [(0, 1), (2, 0), (0, 0)])
    def test_empty(self, boxes, anchors):
        some, sizes = grid()
        some, sizes = (some, sizes) if anchors else (some[:0], [0, 0, 0])
        index, quality = self.assign(some, sizes, random_boxes(0, boxes))
        assert index.shape == quality.shape == (420 * anchors,)
        assert index.dtype == torch.int64 and quality.dtype == torch.float32
        assert (index == -1).all() and (quality == 0).all()

    def test_only_boxes_without_area(self):
        """A line, a point, and a point on the centre (20, 20) of an anchor."""
        anchors, sizes = grid()
        boxes = torch.tensor([[18.0, 20, 18, 60], [30, 30, 30, 30], [20, 20, 20, 20]])
        index, quality = self.assign(anchors, sizes, boxes)
        assert (index == -1).all() and (quality == 0).all()

    def test_boxes_without_area_beside_others(self):
        anchors, sizes = grid()
        flat = torch.tensor([[20.0, 20, 20, 60], [30, 30, 30, 30]])
        boxes = random_boxes(7, 3)
        index, quality = self.assign(anchors, sizes, boxes)
        mixed = self.assign(anchors, sizes, torch.cat([flat, boxes, flat]))
        assert torch.equal(mixed.gt_index, rename(index, torch.tensor([2, 3, 4])))
        assert torch.equal(mixed.quality, quality) and index.max() >= 0

    def test_a_thousand_boxes(self):
        anchors, sizes = grid()
        index, quality = self.assign(anchors, sizes, random_boxes(1, 1000))
        assert index.min() >= -2 and index.max() < 1000 and len(index.unique()) > 50
        assert torch.equal(quality > 0, index >= 0) and (quality <= 1).all()

    def test_permuting_boxes(self):
        anchors, sizes = grid()
        boxes, order = random_boxes(3, 6), torch.tensor([4, 2, 0, 5, 1, 3])
        index, quality = self.assign(anchors, sizes, boxes)
        permuted = self.assign(anchors, sizes, boxes[order])
        assert torch.equal(index, rename(permuted.gt_index, order)) and len(index.unique()) > 3
        assert torch.equal(quality, permuted.quality)

    def test_permuting_the_anchors_of_each_level(self):
        anchors, sizes = grid()
        boxes = random_boxes(4, 5)
        rows = torch.arange(len(anchors)).split(sizes)
        random = torch.Generator().manual_seed(0)
        order = torch.cat([r[torch.randperm(len(r), generator=random)] for r in rows])
        index, quality = self.assign(anchors, sizes, boxes)
        permuted = self.assign(anchors[order], sizes, boxes)
        assert torch.equal(index[order], permuted.gt_index) and index.max() >= 0
        assert torch.equal(quality[order], permuted.quality)

    @pytest.mark.parametrize("side", [0, 1], ids=["left to right", "upside down"])
    @pytest.mark.parametrize("seed", range(5))
    def test_mirroring_the_image(self, seed, side):
        """Anchors sit at cell centres: the mirrored grid is the grid itself in reverse order."""
        anchors, sizes = grid()
        boxes = exact_boxes(seed, 5)
        mirrored, length = boxes.clone(), (160.0, 128.0)[side]
        mirrored[:, side], mirrored[:, side + 2] = (
            length - boxes[:, side + 2],
            length - boxes[:, side],
        )
        index = self.assign(anchors, sizes, boxes).gt_index.split(sizes)
        other = self.assign(anchors, sizes, mirrored).gt_index.split(sizes)
        for level, level_other, height in zip(index, other, (16, 8, 4), strict=True):
            assert torch.equal(level.view(height, -1).flip(1 - side), level_other.view(height, -1))

    @pytest.mark.parametrize("scale", [0.25, 4.0])
    def test_scaling_the_image(self, scale):
        anchors, sizes = grid()
        boxes = exact_boxes(5, 6)
        index, quality = self.assign(anchors, sizes, boxes)
        scaled = self.assign(anchors * scale, sizes, boxes * scale, scale)
        assert torch.equal(index, scaled.gt_index) and index.max() >= 0
        assert torch.allclose(quality, scaled.quality)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_input_is_computed_in_float32(self, dtype):
        anchors, sizes = grid()
        anchors, boxes = anchors.to(dtype), random_boxes(8, 6).to(dtype)
        index, quality = self.assign(anchors, sizes, boxes)
        exact = self.assign(anchors.float(), sizes, boxes.float())
        assert quality.dtype == torch.float32
        assert torch.equal(index, exact.gt_index) and torch.equal(quality, exact.quality)
        assert self.assign(anchors, sizes, boxes[:0]).quality.dtype == torch.float32

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_shapes_and_types(self, dtype):
        """Nothing is learned through an assignment, and the input stays as it was."""
        anchors, sizes = grid()
        anchors, boxes = anchors.to(dtype).requires_grad_(), random_boxes(9, 4).to(dtype)
        before = anchors.detach().clone(), boxes.clone()
        boxes.requires_grad_()
        result = self.assign(anchors, sizes, boxes)
        assert isinstance(result, Assignment)
        assert result.gt_index.shape == result.quality.shape == (420,)
        assert result.gt_index.dtype == torch.int64 and result.quality.dtype == torch.float32
        assert not result.quality.requires_grad
        assert torch.equal(anchors, before[0]) and torch.equal(boxes, before[1])

    def test_equal_boxes_the_first_wins(self):
        anchors, sizes = grid()
        index = self.assign(
            anchors, sizes, torch.tensor([[20.0, 20, 83, 70]]).repeat(3, 1)
        ).gt_index
        assert set(index[index >= 0].tolist()) == {0}


class TestScaleRangeAssign(AssignerTests):
    # On an image of 128 x 160 no box would reach FCOS' 256.
    ranges = [(-1.0, 24.0), (24.0, 48.0), (48.0, math.inf)]

    def assign(self, anchors, sizes, boxes, scale=1.0):
        ranges = [(low * scale, high * scale) for low, high in self.ranges]
        return scale_range_assign(anchors, sizes, boxes, size_ranges=ranges)

    def loop(self, anchors, sizes, boxes):
        return scale_range_assign_loop(anchors, sizes, boxes, self.ranges)


def around(points, side: float) -> torch.Tensor:
    points = torch.tensor(points)
    return torch.cat([points - side / 2, points + side / 2], dim=1)


def test_hand_case():
    """Boxes A = (0, 0, 40, 40), area 1600, and B = (2, 2, 22, 18), area 320.

    Level 0, sizes 0 to 20, anchors of side 8:
    (10, 10)  in A: farthest side 30, too far; in B: l, t, r, b = 8, 8, 12, 8: B
    (20, 20)  in A: all sides 20 away, just near enough; below B: A
    (22, 10)  in A: 30 too far; on the right side of B, not strictly inside: background
    Level 1, sizes from 20, anchors of side 40:
    (20, 20)  in A: 20, just far enough: A
    (10, 10)  in A: 30: A; in B: 12, too near
    (50, 10)  in none: background
    IoUs: 64/320 = .2, 64/1600 = .04, 1600/1600 = 1; (-10, -10, 30, 30) and A share 30 * 30 = 900
    of 1600 + 1600 - 900 = 2300.
    """
    fine = around([[10.0, 10], [20, 20], [22, 10]], 8)
    coarse = around([[20.0, 20], [10, 10], [50, 10]], 40)
    boxes = torch.tensor([[0.0, 0, 40, 40], [2, 2, 22, 18]])
    index, quality = scale_range_assign(
        torch.cat([fine, coarse]), [3, 3], boxes, size_ranges=[(0, 20), (20, math.inf)]
    )
    assert index.tolist() == [1, 0, -1, 0, 0, -1]
    assert quality.tolist() == pytest.approx([0.2, 0.04, 0, 1, 900 / 2300, 0])


def test_the_smallest_area_wins_not_the_nearest_sides():
    """From (10, 10): A = (0, 0, 30, 30), farthest 20, area 900; B = (5, 5, 50, 15), 40, 450: B."""
    boxes = torch.tensor([[0.0, 0, 30, 30], [5, 5, 50, 15]])
    anchor = around([[10.0, 10]], 8)
    for order, winner in (([0, 1], 1), ([1, 0], 0)):
        result = scale_range_assign(anchor, [1], boxes[order], size_ranges=[(0, 64)])
        assert result.gt_index.tolist() == [winner]


@pytest.mark.parametrize("side", range(4))
def test_center_on_the_border_is_outside(side):
    """(10, 10) on one side of a box of 20 x 20, halfway along it."""
    box = torch.tensor(
        [[[10.0, 0, 30, 20]], [[0, 10, 20, 30]], [[-10, 0, 10, 20]], [[0, -10, 20, 10]]]
    )
    anchor = around([[10.0, 10]], 8)
    result = scale_range_assign(anchor, [1], box[side], size_ranges=[(-1, 64)])
    assert result.gt_index.tolist() == [-1] and result.quality.tolist() == [0]


def test_sides_of_the_anchor_play_no_part():
    anchors, sizes = grid()
    boxes, ranges = random_boxes(2, 5), TestScaleRangeAssign.ranges
    index = scale_range_assign(anchors, sizes, boxes, size_ranges=ranges).gt_index
    small, _ = grid(scale=1)
    other = scale_range_assign(small, sizes, boxes, size_ranges=ranges)
    assert torch.equal(index, other.gt_index) and len(index.unique()) > 2


def test_levels_have_their_own_ranges():
    """One place on four levels, one box of 2 * 30 pixels: only the third range holds 30."""
    anchors = around([[50.0, 50]] * 4, 8)
    ranges = [(0, 8), (8, 16), (16, 32), (32, math.inf)]
    box = torch.tensor([[20.0, 20, 80, 80]])
    result = scale_range_assign(anchors, [1, 1, 1, 1], box, size_ranges=ranges)
    assert result.gt_index.tolist() == [-1, -1, 0, -1]
    # An image may have no cell on a level: now the anchors are of levels 0, 2, 2, 3.
    result = scale_range_assign(anchors, [1, 0, 2, 1], box, size_ranges=ranges)
    assert result.gt_index.tolist() == [-1, 0, 0, -1]


@pytest.mark.parametrize(
    "sizes, ranges, message",
    [([2], [(0, 8)], "do not sum to 1"), ([1], [(0, 8)] * 2, "1 levels need as many size_ranges")],
)
@pytest.mark.parametrize("count", [0, 1])
def test_bad_arguments(sizes, ranges, message, count):
    with pytest.raises(ValueError, match=message):
        scale_range_assign(torch.zeros(1, 4), sizes, torch.zeros(count, 4), size_ranges=ranges)
