"""Smooth L1 loss (arXiv:1504.08083)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    beta: float,
    reduction: str = "none",
    size_average: bool = False,
) -> Tensor:
    """|e| < beta: e^2 / (2 beta), else |e| - beta / 2, e = input - target; beta < 1e-5: |e|.

    Args:
        input, target: the same shape.
        reduction: "none", "mean" or "sum"; `size_average` divides the result by len(input).
    """
    if beta < 1e-5:
        loss = F.l1_loss(input, target, reduction=reduction)
    else:
        loss = F.smooth_l1_loss(input, target, reduction=reduction, beta=beta)
    return loss / max(len(input), 1) if size_average else loss
