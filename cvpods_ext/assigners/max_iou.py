"""RetinaNet's positives (arXiv:1708.02002): thresholds on the IoU. "IoU" in ATSS's comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvpods.modeling.matcher import Matcher
from cvpods_ext.assigners.assignment import (
    BACKGROUND,
    IGNORE,
    Assignment,
    center_inside,
    nobody,
    overlap,
)


@torch.no_grad()
def max_iou_assign(
    anchors: Tensor,
    level_sizes: Sequence[int],
    gt_boxes: Tensor,
    *,
    positive: float = 0.5,
    negative: float = 0.4,
    inside: float = 0.0,
) -> Assignment:
    """Assign an anchor to the box of its highest IoU, where that is high enough.

    1. IoU >= `positive`: positive. IoU < `negative`: background. Between them: ignored.
    2. The anchors of a box's highest IoU are positive too, whatever that is above 0; they answer
       for the box of their own highest IoU.
    3. A positive whose centre does not lie strictly inside its box is ignored.

    Args:
        anchors: (R, 4) xyxy, pixels of the padded input.
        level_sizes: as of the other assigners; levels play no part here.
        gt_boxes: (M, 4) xyxy, pixels of the padded input.
        inside: pixels by which the centre must lie inside the box.

    Returns:
        Assignment(gt_index (R,), quality (R,)).

    Raises:
        ConfigError: negative > positive.

    Differs from the published code: continuous boxes, without the legacy one pixel in widths;
    inside means a distance > 0, not > 0.01.
    """
    matcher = Matcher([negative, positive], [0, -1, 1], allow_low_quality_matches=True)
    anchors, gt_boxes = anchors.float(), gt_boxes.float()
    if len(gt_boxes) == 0 or len(anchors) == 0:
        return nobody(anchors)
    match, label = matcher.by_rows(
        lambda part: overlap(gt_boxes[part, None], anchors),
        len(gt_boxes),
        len(anchors),
        anchors.device,
    )
    is_inside = center_inside(gt_boxes[match], anchors, inside)
    is_positive = (label == 1) & is_inside
    ignored = (label == -1) | ((label == 1) & ~is_inside)
    gt_index = torch.where(is_positive, match, torch.where(ignored, IGNORE, BACKGROUND))
    iou = overlap(gt_boxes[match], anchors)  # (R,)
    return Assignment(gt_index, torch.where(is_positive, iou, 0.0))
