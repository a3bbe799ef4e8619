"""Focal loss (arXiv:1708.02002)."""

from __future__ import annotations

from torch import Tensor
from torchvision import ops

from cvpods.modeling.losses.common import at_least_float32, reduce_loss


def sigmoid_focal_loss_jit(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = -1.0,
    gamma: float = 2.0,
    reduction: str = "none",
) -> Tensor:
    """Return the focal loss, Eq. 5: -alpha_t (1 - p_t)^gamma log(p_t).

    It is torchvision's under the name of cvpods.

    Args:
        inputs: logits, any shape; halves are computed in float32.
        targets: 0 or 1, same shape.
        alpha: weight of positives; negatives have 1 - alpha. Below 0: no weights.
        reduction: "none", "mean" or "sum".
    """
    inputs = at_least_float32(inputs)
    loss = ops.sigmoid_focal_loss(
        inputs, targets.to(inputs.dtype), -1 if alpha < 0 else alpha, gamma
    )
    return reduce_loss(loss, None, reduction)


sigmoid_focal_loss = sigmoid_focal_loss_jit
