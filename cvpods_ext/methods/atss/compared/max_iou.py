"""RetinaNet's assignment (arXiv:1708.02002): thresholds on the IoU, "IoU" in ATSS's paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvpods.modeling.matcher import Matcher
from cvpods.structures.geometry import as_columns, as_rows, centers, iou, iou_table, is_inside
from cvpods_ext.kernels.assignment import BACKGROUND, IGNORE, Assignment, all_background


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
    """Assign an anchor to the box of its highest IoU, if that is high enough.

    1. IoU >= `positive`: positive. IoU < `negative`: background. Between them: ignored.
    2. The anchors of a box's highest IoU are positive too, whatever that is above 0; they are
       assigned to the box of their own highest IoU.
    3. A positive whose centre does not lie strictly inside its box is ignored.

    Args:
        anchors: (R, 4) xyxy, pixels of the padded input.
        level_sizes: as for the other assigners; levels play no part here.
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
        return all_background(anchors)
    rows, columns = as_rows(gt_boxes), as_columns(anchors)
    match, label = matcher.by_rows(
        lambda part: iou_table(rows[:, part], columns), len(gt_boxes), len(anchors), anchors.device
    )
    has_center = is_inside(centers(anchors), gt_boxes[match], inside)
    is_positive = (label == 1) & has_center
    ignored = (label == -1) | ((label == 1) & ~has_center)
    gt_index = torch.where(is_positive, match, torch.where(ignored, IGNORE, BACKGROUND))
    return Assignment(gt_index, torch.where(is_positive, iou(gt_boxes[match], anchors), 0.0))
