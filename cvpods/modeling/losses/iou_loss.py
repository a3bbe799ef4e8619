"""IoU losses of pairs of boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from cvpods.modeling.losses.common import at_least_float32, reduce_loss


def iou_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    box_mode: str = "xyxy",
    loss_type: str = "iou",
    smooth: bool = False,
    reduction: str = "none",
) -> Tensor:
    """Loss of the i-th input box against the i-th target box.

    "iou": -log IoU (arXiv:1608.01471); "linear_iou": 1 - IoU; "giou": 1 - GIoU (arXiv:1902.09630).

    Args:
        inputs, targets: (..., 4), broadcast against each other.
        weight: (...) factor of each loss; "mean" then divides by the sum of the weights.
        box_mode: "xyxy" corners, or "ltrb" distances from a shared point.
        smooth: add 1 to intersection and union.
        reduction: "none", "mean" or "sum".
    """
    inputs, targets = at_least_float32(inputs), at_least_float32(targets)
    if box_mode == "ltrb":
        sign = inputs.new_tensor([-1, -1, 1, 1])
        inputs, targets = inputs * sign, targets * sign
    elif box_mode != "xyxy":
        raise ValueError(f"box_mode must be 'xyxy' or 'ltrb', got {box_mode!r}.")
    eps = torch.finfo(torch.float32).eps
    inputs_area = (inputs[..., 2:] - inputs[..., :2]).clamp(min=0).prod(-1)
    targets_area = (targets[..., 2:] - targets[..., :2]).clamp(min=0).prod(-1)
    left_top = torch.max(inputs[..., :2], targets[..., :2])
    right_bottom = torch.min(inputs[..., 2:], targets[..., 2:])
    intersection = (right_bottom - left_top).clamp(min=0).prod(-1)
    union = inputs_area + targets_area - intersection
    added = 1.0 if smooth else 0.0
    ious = (intersection + added) / (union + added).clamp(min=eps)
    if loss_type == "iou":
        loss = -ious.clamp(min=eps).log()
    elif loss_type == "linear_iou":
        loss = 1 - ious
    elif loss_type == "giou":
        outer_lt = torch.min(inputs[..., :2], targets[..., :2])
        outer_rb = torch.max(inputs[..., 2:], targets[..., 2:])
        outer = (outer_rb - outer_lt).clamp(min=0).prod(-1)
        loss = 1 - (ious - (outer - union) / outer.clamp(min=eps))
    else:
        raise ValueError(f"loss_type must be 'iou', 'linear_iou' or 'giou', got {loss_type!r}.")
    return reduce_loss(loss, weight, reduction)
