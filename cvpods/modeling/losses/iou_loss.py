"""IoU losses of pairs of boxes."""

from __future__ import annotations

from torch import Tensor

from cvpods.modeling.losses.common import at_least_float32, reduce_loss
from cvpods.structures import geometry


def iou_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    box_mode: str = "xyxy",
    loss_type: str = "iou",
    smooth: bool = False,
    reduction: str = "none",
) -> Tensor:
    """Return the loss of each input box and its target box.

    "iou": -log IoU (arXiv:1608.01471); "linear_iou": 1 - IoU; "giou": 1 - GIoU (arXiv:1902.09630).

    Args:
        inputs, targets: (..., 4), broadcast against each other.
        weight: (...) factor of each loss; "mean" then divides by the sum of the weights.
        box_mode: "xyxy" corners, or "ltrb" distances from a shared point.
        smooth: add 1 to intersection and union.
        reduction: "none", "mean" or "sum".

    Raises:
        ValueError: box_mode, loss_type or reduction is unknown.
    """
    inputs, targets = at_least_float32(inputs), at_least_float32(targets)
    if box_mode == "ltrb":
        sign = inputs.new_tensor([-1, -1, 1, 1])
        inputs, targets = inputs * sign, targets * sign
    elif box_mode != "xyxy":
        raise ValueError(f"box_mode must be 'xyxy' or 'ltrb'; got {box_mode!r}.")
    intersection, union = geometry.intersections_and_unions(inputs, targets)
    added = 1.0 if smooth else 0.0
    ious = (intersection + added) / (union + added).clamp(min=geometry.EPS)
    if loss_type == "iou":
        loss = -ious.clamp(min=geometry.EPS).log()
    elif loss_type == "linear_iou":
        loss = 1 - ious
    elif loss_type == "giou":
        loss = 1 - (ious - geometry.empty_share(inputs, targets, union))
    else:
        raise ValueError(f"loss_type must be 'iou', 'linear_iou' or 'giou'; got {loss_type!r}.")
    return reduce_loss(loss, weight, reduction)
