"""Focal loss (arXiv:1708.02002)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cvpods.modeling.losses.common import at_least_float32, reduce_loss


def sigmoid_focal_loss_jit(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = -1.0,
    gamma: float = 2.0,
    reduction: str = "none",
) -> Tensor:
    """Return the focal loss, Eq. 5: -alpha_t (1 - p_t)^gamma log(p_t).

    Args:
        inputs: logits, any shape; halves are computed in float32.
        targets: 0 or 1, same shape.
        alpha: weight of positives; negatives have 1 - alpha. Below 0: no weights.
        reduction: "none", "mean" or "sum".
    """
    if alpha > 1:
        raise ValueError(f"alpha must be at most 1; got {alpha}.")
    inputs = at_least_float32(inputs)
    targets = targets.to(inputs.dtype)
    p = torch.sigmoid(inputs)
    p_t = p * targets + (1 - p) * (1 - targets)
    loss = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    loss = loss * (1 - p_t) ** gamma
    if alpha >= 0:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    return reduce_loss(loss, None, reduction)


sigmoid_focal_loss = sigmoid_focal_loss_jit
