"""Smooth L1 loss (arXiv:1504.08083)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from cvpods.modeling.losses.common import at_least_float32, reduce_loss


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    beta: float,
    reduction: str = "none",
    size_average: bool = False,
) -> Tensor:
    """Return the smooth L1 loss of e = input - target.

    It is e^2 / (2 beta) for |e| < beta, otherwise |e| - beta / 2; |e| if beta < 1e-5.

    Args:
        input, target: the same shape.
        reduction: "none", "mean" or "sum"; `size_average` divides the result by len(input).
    """
    input, target = at_least_float32(input), at_least_float32(target)
    if beta < 1e-5:
        loss = F.l1_loss(input, target, reduction="none")
    else:
        loss = F.smooth_l1_loss(input, target, reduction="none", beta=beta)
    loss = reduce_loss(loss, None, reduction)
    return loss / max(len(input), 1) if size_average else loss
