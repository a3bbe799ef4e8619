"""ATSS's assigner: a case by hand, a slow loop, invariances, empty and degenerate input."""

from __future__ import annotations

import pytest
import torch

from cvpods.modeling.anchor_generator import AnchorGrid
from cvpods_ext.methods.atss import atss_assign
from tests.reference.atss import atss_assign_loop
from tests.seeds import each_seed


def grid(height: int = 128, width: int = 160, scale: int = 8) -> tuple[torch.Tensor, list[int]]:
    """Anchors of side scale x stride for strides 8, 16, 32 on an image of that size."""
    strides = (8, 16, 32)
    generator = AnchorGrid(
        sizes=[[scale * s] for s in strides], aspect_ratios=[[1.0]], strides=strides, offset=0.5
    )
    levels = generator.grid([torch.zeros(1, 1, height // s, width // s) for s in strides])
    return torch.cat(levels), [len(level) for level in levels]


def random_boxes(seed: int, count: int, height: int = 128, width: int = 160) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=random) * torch.tensor([width * 0.7, height * 0.7])
    size = 4 + torch.rand(count, 2, generator=random) * 90
    return torch.cat([low, low + size], dim=1)


def test_hand_case():
    """One level, 4 anchors of side 10 in a row, centres x = 5, 15, 25, 35; topk 3; two boxes.

    Box 0 = (0, 0, 20, 10), centre x = 10: candidates anchors 0, 1 (distance 5) and 2 (15).
    IoUs 100/200 = .5, .5, 0; mean 1/3, std (n - 1) = sqrt(2/36 + 1/9) / sqrt(2) = .2887;
    threshold .6220: none reaches it, box 0 has no anchor.
    Box 1 = (22, 0, 36, 10), centre 29: candidates 2 (distance 4), 3 (6) and 1 (14).
    Intersections with (20, 30), (30, 40), (10, 20): 80, 60, 0; IoUs 80/160 = .5, 60/180 = .3333, 0.
    mean .2778, std .2546, threshold .5323: none either.
    With topk 1 the threshold is the IoU of the one candidate: box 0 takes anchor 0 or 1 (equal
    distance), box 1 takes anchor 2.
    """
    anchors = torch.tensor([[x, 0.0, x + 10, 10.0] for x in (0.0, 10.0, 20.0, 30.0)])
    boxes = torch.tensor([[0.0, 0, 20, 10], [22.0, 0, 36, 10]])
    assert atss_assign(anchors, [4], boxes, topk=3).gt_index.tolist() == [-1] * 4
    index, quality = atss_assign(anchors, [4], boxes, topk=1)
    assert index.tolist() in ([0, -1, 1, -1], [-1, 0, 1, -1])
    assert quality[2].item() == pytest.approx(0.5)
    assert quality.sum().item() == pytest.approx(1.0)


def test_anchor_of_two_boxes_goes_to_the_higher_iou():
    """Anchor (0, 0, 10, 10); boxes (0, 0, 10, 8), IoU .8, and (0, 0, 10, 9), IoU .9."""
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 8], [0.0, 0, 10, 9]])
    index, quality = atss_assign(anchors, [1], boxes)
    assert index.tolist() == [1]
    assert quality.item() == pytest.approx(0.9)


def test_equal_boxes_the_first_wins():
    anchors, sizes = grid()
    boxes = torch.tensor([[20.0, 20, 80, 70]]).repeat(3, 1)
    assert set(atss_assign(anchors, sizes, boxes).gt_index.unique().tolist()) == {-1, 0}


def test_center_on_the_border_is_outside():
    """The anchor's centre (5, 5) lies on the left side of (5, 0, 15, 10): not strictly inside."""
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    assert atss_assign(anchors, [1], torch.tensor([[5.0, 0, 15, 10]])).gt_index.tolist() == [-1]


@each_seed(20)
def test_matches_loop(seed):
    anchors, sizes = grid()
    count, topk = 1 + seed % 7, (1, 3, 9, 500)[seed % 4]
    # Boxes off the symmetric positions, where equal distances would leave the order open.
    boxes = random_boxes(seed, count)
    expected = atss_assign_loop(anchors.tolist(), sizes, boxes.tolist(), topk)
    assert atss_assign(anchors, sizes, boxes, topk=topk).gt_index.tolist() == expected


@pytest.mark.parametrize("boxes, anchors", [(0, 1), (1, 0), (0, 0)])
def test_empty(boxes, anchors):
    all_anchors, sizes = grid()
    all_anchors, sizes = (all_anchors, sizes) if anchors else (all_anchors[:0], [0, 0, 0])
    index, quality = atss_assign(all_anchors, sizes, random_boxes(0, boxes))
    assert index.shape == quality.shape == (len(all_anchors),)
    assert index.dtype == torch.int64
    assert (index == -1).all() and (quality == 0).all()


def test_single_candidate():
    """One anchor in all: the threshold is its own IoU, the deviation of one value counts as 0."""
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    index, quality = atss_assign(anchors, [1], torch.tensor([[0.0, 0, 10, 20]]))
    assert index.tolist() == [0] and quality.item() == pytest.approx(0.5)


def test_zero_area_box_has_no_anchor():
    anchors, sizes = grid()
    boxes = torch.tensor([[20.0, 20, 20, 60], [30.0, 30, 30, 30], [40.0, 40, 90, 90]])
    index = atss_assign(anchors, sizes, boxes).gt_index
    assert set(index.unique().tolist()) == {-1, 2}


def test_thousand_boxes():
    anchors, sizes = grid()
    index, quality = atss_assign(anchors, sizes, random_boxes(1, 1000))
    assert index.max() < 1000 and torch.isfinite(quality).all()
    assert ((quality > 0) == (index >= 0)).all()


def test_levels_smaller_than_topk():
    anchors, sizes = grid(32, 32, scale=2)
    assert sizes == [16, 4, 1]
    boxes = torch.tensor([[3.0, 2, 31, 27], [1.0, 5, 9, 17]])
    expected = atss_assign_loop(anchors.tolist(), sizes, boxes.tolist(), 9)
    assert 0 in expected
    assert atss_assign(anchors, sizes, boxes).gt_index.tolist() == expected


def test_permuting_boxes_permutes_the_index():
    anchors, sizes = grid()
    boxes = random_boxes(3, 6)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    index = atss_assign(anchors, sizes, boxes).gt_index
    permuted = atss_assign(anchors, sizes, boxes[order]).gt_index
    back = torch.where(permuted >= 0, order[permuted.clamp(min=0)], -1)
    assert torch.equal(index, back)


def test_permuting_locations_of_a_level():
    anchors, sizes = grid()
    boxes = random_boxes(4, 5)
    order = torch.cat([torch.randperm(sizes[0]), torch.arange(sizes[0], len(anchors))])
    index = atss_assign(anchors, sizes, boxes).gt_index
    assert torch.equal(index[order], atss_assign(anchors[order], sizes, boxes).gt_index)


def test_scaling_everything_changes_nothing():
    anchors, sizes = grid()
    boxes = random_boxes(5, 6)
    index = atss_assign(anchors, sizes, boxes).gt_index
    assert torch.equal(index, atss_assign(anchors * 4, sizes, boxes * 4).gt_index)


def test_flipping_the_image_flips_the_assignment():
    """Anchors sit at cell centres, so the mirrored grid is the grid itself in reverse rows."""
    anchors, sizes = grid(128, 128)
    boxes = random_boxes(6, 4, 128, 128)
    flip = torch.tensor([128.0, 0, 128, 0])
    mirrored = (boxes * torch.tensor([-1.0, 1, -1, 1]) + flip)[:, [2, 1, 0, 3]]
    index = atss_assign(anchors, sizes, boxes).gt_index.split(sizes)
    other = atss_assign(anchors, sizes, mirrored).gt_index.split(sizes)
    for level, level_other in zip(index, other, strict=True):
        side = int(len(level) ** 0.5)
        assert torch.equal(level.view(side, side).flip(1), level_other.view(side, side))


def test_half_precision_input_is_computed_in_float32():
    anchors, sizes = grid()
    boxes = torch.tensor([[16.0, 24, 80, 72]])
    exact = atss_assign(anchors, sizes, boxes)
    half = atss_assign(anchors.bfloat16(), sizes, boxes.bfloat16())
    assert half.quality.dtype == torch.float32
    assert torch.equal(exact.gt_index, half.gt_index)


@pytest.mark.parametrize(
    "sizes, topk, message", [([5], 9, "do not sum"), ([1], 0, "topk must be at least 1")]
)
def test_bad_arguments(sizes, topk, message):
    with pytest.raises(ValueError, match=message):
        atss_assign(torch.zeros(1, 4), sizes, torch.zeros(1, 4), topk=topk)
