"""RetinaNet's positives: cases by hand, a slow loop, what is ignored, and low-quality matches."""

from __future__ import annotations

import pytest
import torch

from cvpods.utils.errors import ConfigError
from cvpods_ext.kernels.assignment import BACKGROUND, IGNORE
from cvpods_ext.methods.atss.compared.max_iou import max_iou_assign
from tests.cvpods_ext.methods.atss.compared.test_scale_range_assign import AssignerTests
from tests.cvpods_ext.methods.atss.test_atss_assign import grid, random_boxes
from tests.reference.positives import max_iou_assign_loop


class TestMaxIouAssign(AssignerTests):
    def assign(self, anchors, sizes, boxes, scale=1.0):
        return max_iou_assign(anchors, sizes, boxes)

    def loop(self, anchors, sizes, boxes):
        return max_iou_assign_loop(anchors, boxes)


def one_box(anchors, box, **thresholds):
    """Index and quality of anchors for one box, as lists."""
    anchors = torch.tensor(anchors)
    result = max_iou_assign(anchors, [len(anchors)], torch.tensor([box]), **thresholds)
    return [part.tolist() for part in result]


def test_hand_case():
    """Box (0, 0, 20, 10), area 200; all anchors have height 10.

    (0, 16)  IoU 160/200 = .8: positive
    (0, 10)  100/200 = .5, just enough: positive
    (0, 8)    80/200 = .4, just not background: ignored
    (0, 7)    70/200 = .35: background
    (0, 40)  200/400 = .5, but its centre x = 20 lies on the right side of the box: ignored
    """
    anchors = [[0.0, 0, right, 10] for right in (16, 10, 8, 7, 40)]
    index, quality = one_box(anchors, [0.0, 0, 20, 10])
    assert (BACKGROUND, IGNORE) == (-1, -2)
    assert index == [0, 0, IGNORE, BACKGROUND, IGNORE]
    assert quality == pytest.approx([0.8, 0.5, 0, 0, 0])


def test_thresholds():
    """IoUs .8, .5, .4, .35 as above: from .7 on positive, below .38 background."""
    anchors = [[0.0, 0, right, 10] for right in (16, 10, 8, 7)]
    index, _ = one_box(anchors, [0.0, 0, 20, 10], positive=0.7, negative=0.38)
    assert index == [0, IGNORE, IGNORE, BACKGROUND]
    # Equal thresholds leave nothing to ignore.
    index, _ = one_box(anchors, [0.0, 0, 20, 10], positive=0.6, negative=0.6)
    assert index == [0, BACKGROUND, BACKGROUND, BACKGROUND]


def test_the_higher_iou_wins():
    """Anchor (0, 0, 10, 10); boxes (0, 0, 10, 8), IoU .8, and (0, 0, 10, 9), IoU .9."""
    boxes = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 9]])
    index, quality = max_iou_assign(torch.tensor([[0.0, 0, 10, 10]]), [1], boxes)
    assert index.tolist() == [1] and quality.item() == pytest.approx(0.9)


def test_low_quality_match():
    """Box (0, 0, 20, 10): its best anchors, IoU 60/200 = .3, are positive; .25 is background.

    Two anchors share the highest IoU, (0, 0, 6, 10) and (14, 0, 20, 10): both are positive.
    """
    anchors = [[0.0, 0, 6, 10], [0, 0, 5, 10], [14, 0, 20, 10], [30, 0, 36, 10]]
    index, quality = one_box(anchors, [0.0, 0, 20, 10])
    assert index == [0, -1, 0, -1]
    assert quality == pytest.approx([0.3, 0, 0.3, 0])


def test_low_quality_match_answers_for_its_own_best_box():
    """Boxes A = (0, 0, 10, 10), B = (1, 0, 2, 6); anchors a = (0, 0, 3, 10) and A itself.

    IoU(a, A) = 30/100 = .3. B lies in both anchors: IoU(a, B) = 6/30 = .2, IoU(A, B) = 6/100.
    The best anchor of B is a, whose centre (1.5, 5) is inside both boxes: it is positive because
    of B, but answers for A, its own best. B has no anchor.
    """
    anchors = torch.tensor([[0.0, 0, 3, 10], [0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 2, 6]])
    index, quality = max_iou_assign(anchors, [2], boxes)
    assert index.tolist() == [0, 0]
    assert quality.tolist() == pytest.approx([0.3, 1.0])
    # Without B, a is background.
    assert max_iou_assign(anchors, [2], boxes[:1]).gt_index.tolist() == [-1, 0]


def test_low_quality_match_with_its_centre_outside_is_ignored():
    """The only anchor (5, 0, 15, 10), IoU 50/150 = .33; its centre x = 10 is the box's right side.

    Moved by 1 it is inside: 60/140 = .4286, between the thresholds and still the best: positive.
    """
    assert one_box([[5.0, 0, 15, 10]], [0.0, 0, 10, 10]) == [[IGNORE], [0]]
    index, quality = one_box([[4.0, 0, 14, 10]], [0.0, 0, 10, 10])
    assert index == [0] and quality == pytest.approx([60 / 140])


def test_box_that_no_anchor_touches():
    """Its highest IoU is 0, which keeps no anchor."""
    assert one_box([[0.0, 0, 10, 10], [20, 0, 30, 10]], [50.0, 50, 60, 60]) == [[-1, -1], [0, 0]]


@pytest.mark.parametrize("side", range(4))
def test_center_on_the_border_is_ignored(side):
    """IoU 200/400 = .5: the box is one half of the anchor (0, 0, 20, 20), to one side."""
    halves = [[10.0, 0, 20, 20], [0.0, 10, 20, 20], [0.0, 0, 10, 20], [0.0, 0, 20, 10]]
    assert one_box([[0.0, 0, 20, 20]], halves[side]) == [[IGNORE], [0]]


def test_ignored_anchors_exist_in_random_images():
    """The loop's cases have all three answers, and every positive has its centre in its box."""
    anchors, sizes = grid()
    boxes = random_boxes(6, 7)
    index = max_iou_assign(anchors, sizes, boxes).gt_index
    assert {-2, -1} < set(index.tolist())
    positive = index >= 0
    points, owners = (anchors[:, :2] + anchors[:, 2:])[positive] / 2, boxes[index[positive]]
    assert ((points > owners[:, :2]) & (points < owners[:, 2:])).all()


def test_levels_play_no_part():
    anchors, sizes = grid()
    boxes = random_boxes(2, 5)
    for one, other in zip(
        max_iou_assign(anchors, sizes, boxes), max_iou_assign(anchors, [420], boxes), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("count", [0, 1])
def test_bad_arguments(count):
    with pytest.raises(ConfigError, match="increasing thresholds"):
        max_iou_assign(torch.zeros(1, 4), [1], torch.zeros(count, 4), positive=0.4, negative=0.5)
