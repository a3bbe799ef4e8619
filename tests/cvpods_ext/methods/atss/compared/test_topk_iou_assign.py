"""The best anchors by IoU: cases by hand, a slow loop, and what the distance decides."""

from __future__ import annotations

import pytest
import torch

from cvpods_ext.methods.atss.compared.topk_iou import topk_iou_assign
from tests.cvpods_ext.methods.atss.compared.test_scale_range_assign import AssignerTests
from tests.cvpods_ext.methods.atss.test_atss_assign import grid, random_boxes
from tests.reference.positives import topk_iou_assign_loop


class TestTopkIouAssign(AssignerTests):
    def assign(self, anchors, sizes, boxes, scale=1.0):
        return topk_iou_assign(anchors, sizes, boxes)

    def loop(self, anchors, sizes, boxes):
        return topk_iou_assign_loop(anchors, boxes, 9)


@pytest.mark.parametrize("topk", [1, 3, 20, 500])
def test_matches_loop_with_other_k(topk):
    anchors, sizes = grid()
    boxes = random_boxes(topk, 5)
    expected = topk_iou_assign_loop(anchors.tolist(), boxes.tolist(), topk)
    assert topk_iou_assign(anchors, sizes, boxes, topk=topk).gt_index.tolist() == expected


ROW = torch.tensor([[x, 0.0, x + 10, 10.0] for x in (0.0, 10.0, 20.0, 30.0)])
TWO = torch.tensor([[0.0, 0, 18, 10], [22.0, 0, 36, 10]])


def test_hand_case():
    """4 anchors of side 10 in a row, centres x = 5, 15, 25, 35; two boxes.

    Box 0 = (0, 0, 18, 10), centre 9: IoUs 100/180 = .5556, 80/200 = .4, 0, 0.
    Box 1 = (22, 0, 36, 10), centre 29: intersections 0, 0, 80, 60; IoUs 0, 0, 80/160 = .5,
    60/180 = .3333.
    topk 3: box 0 asks for anchors 0, 1 and the nearer one of IoU 0, anchor 2, which is not inside;
    box 1 for 2, 3 and 1, which is not inside.
    topk 1: box 0 has anchor 0, box 1 anchor 2.
    """
    index, quality = topk_iou_assign(ROW, [4], TWO, topk=3)
    assert index.tolist() == [0, 0, 1, 1]
    assert quality.tolist() == pytest.approx([1 / 1.8, 0.4, 0.5, 1 / 3])
    index, quality = topk_iou_assign(ROW, [4], TWO, topk=1)
    assert index.tolist() == [0, -1, 1, -1]
    assert quality.tolist() == pytest.approx([1 / 1.8, 0, 0.5, 0])


def test_k_counts_over_all_levels():
    """One candidate per box, not one per level: anchor 1 on a level of its own stays background."""
    index = topk_iou_assign(ROW, [1, 1, 2], TWO, topk=1).gt_index
    assert index.tolist() == [0, -1, 1, -1]


def test_nine_by_default():
    """A box around the whole image: all 420 centres are inside, nine of them are taken.

    The best four have side 128 and their centre 8 pixels from (80, 64) both ways: they share
    128 * 120 = 15360 of 16384 + 20480 - 15360 = 21504 pixels with the box.
    """
    anchors, sizes = grid()
    box = torch.tensor([[0.0, 0, 160, 128]])
    index, quality = topk_iou_assign(anchors, sizes, box)
    assert (index == 0).sum() == 9
    assert quality.topk(5).values.tolist()[:4] == pytest.approx([15360 / 21504] * 4)
    assert quality.topk(5).values[4] < 0.71
    assert (topk_iou_assign(anchors, sizes, box, topk=420).gt_index == 0).all()


def test_anchor_of_two_boxes_goes_to_the_higher_iou():
    """Anchor (0, 0, 10, 10); boxes (0, 0, 10, 8), IoU .8, and (0, 0, 10, 9), IoU .9."""
    boxes = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 9]])
    index, quality = topk_iou_assign(ROW[:1], [1], boxes)
    assert index.tolist() == [1] and quality.item() == pytest.approx(0.9)


def centered(*places) -> torch.Tensor:
    """Squares (side, x, y) as boxes."""
    side, x, y = torch.tensor(places, dtype=torch.float32).unbind(1)
    return torch.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], dim=1)


def test_distance_decides_between_equal_ious():
    """Three anchors of side 10 within a box of side 100, IoU .01 each; the second is nearest."""
    anchors = centered((10, 20, 50), (10, 55, 50), (10, 85, 50))
    box = centered((100, 50, 50))
    assert topk_iou_assign(anchors, [3], box, topk=1).gt_index.tolist() == [-1, 0, -1]
    assert topk_iou_assign(anchors, [3], box, topk=2).gt_index.tolist() == [0, 0, -1]


def test_distance_is_in_thousandths_of_the_largest_in_the_image():
    """Box A of side 200 at (100, 100); anchors of side 9 at its centre and of side 10, 60 away.

    IoUs 81/40000 = .002025 and 100/40000 = .0025. Alone, the largest distance is 60: the second
    one loses 60/60/1000 = .001 and is .0015; the first one wins.
    A far box B at (700, 100) is 600 from the first anchor: the second one loses
    60/600/1000 = .0001, is .0024 and wins. B overlaps none, and the nearer one is not inside it.
    """
    anchors = centered((9, 100, 100), (10, 160, 100))
    boxes = centered((200, 100, 100), (20, 700, 100))
    assert topk_iou_assign(anchors, [2], boxes[:1], topk=1).gt_index.tolist() == [0, -1]
    assert topk_iou_assign(anchors, [2], boxes, topk=1).gt_index.tolist() == [-1, 0]


@pytest.mark.parametrize("side", range(4))
def test_center_on_the_border_is_outside(side):
    """The box is one half of the anchor (0, 0, 20, 20), to one side: IoU .5."""
    halves = [[10.0, 0, 20, 20], [0.0, 10, 20, 20], [0.0, 0, 10, 20], [0.0, 0, 20, 10]]
    anchor = torch.tensor([[0.0, 0, 20, 20]])
    index, quality = topk_iou_assign(anchor, [1], torch.tensor([halves[side]]))
    assert index.tolist() == [-1] and quality.tolist() == [0]


def test_candidates_outside_are_not_replaced():
    """Box (0, 0, 6, 10), area 60; the two anchors of the highest IoU have their centre outside.

    (0, 0, 16, 10)  60/160 = .375, centre x = 8 outside
    (0, 0, 20, 10)  60/200 = .3,   centre x = 10 outside
    (2, 4, 5, 8)    12/60 = .2,    centre inside, but third
    """
    anchors = torch.tensor([[0.0, 0, 16, 10], [0, 0, 20, 10], [2, 4, 5, 8]])
    box = torch.tensor([[0.0, 0, 6, 10]])
    assert topk_iou_assign(anchors, [3], box, topk=2).gt_index.tolist() == [-1, -1, -1]
    assert topk_iou_assign(anchors, [3], box, topk=3).gt_index.tolist() == [-1, -1, 0]


@pytest.mark.parametrize("topk", [0, -1])
@pytest.mark.parametrize("count", [0, 1])
def test_bad_arguments(topk, count):
    with pytest.raises(ValueError, match=f"topk must be at least 1, got {topk}"):
        topk_iou_assign(torch.zeros(1, 4), [1], torch.zeros(count, 4), topk=topk)
