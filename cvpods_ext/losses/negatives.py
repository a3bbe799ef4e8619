"""The negative term of bag losses: focal loss of everything that is not found to be an object.

    sum_{j,c} FL(x_jc),  FL(x) = -x^gamma log(1 - x),  x_jc = p_jc (1 - A_jc)

p_jc is the sigmoid of a class logit, times that of an objectness logit where there is one; A_jc, in
[0, 1], is how surely location j has found an object of class c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cvpods.utils.slices import slices

# (image, slice of its locations) -> A (r, K), or None for an image without boxes.
Found = Callable[[int, slice], Tensor | None]


def negative_focal_loss(
    logits: Tensor, obj_logits: Tensor | None, found: Found, width: int, gamma: float
) -> Tensor:
    """The sum above, a scalar with gradients into both logits.

    Forward writes the gradients that backward hands out, slice by slice. Autograd on the formula
    would keep a handful of tensors of the logits' size.

    Args:
        logits: (N, R, K) float32 or float64; obj_logits: (N, R, 1), or None for p = sigmoid(logit).
        width: elements in a row of the widest table that `found` makes; slices follow it.
    """
    return _NegativeFocalLoss.apply(logits, obj_logits, found, width, gamma)


class _NegativeFocalLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        obj_logits: Tensor | None,
        found: Found,
        width: int,
        gamma: float,
    ) -> Tensor:
        total, *slopes = negatives_and_slopes(logits, obj_logits, found, width, gamma, True)
        ctx.save_for_backward(*slopes)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, obj_slope = ctx.saved_tensors
        obj_grad = None if obj_slope is None else obj_slope * grad
        return slope * grad, obj_grad, None, None, None


def negatives_and_slopes(
    logits: Tensor,
    obj_logits: Tensor | None,
    found: Found,
    width: int,
    gamma: float,
    with_slopes: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The sum and its gradients (N, R, K) and (N, R, 1).

    With s = x^gamma (x / (1 - x) - gamma log(1 - x)), the gradient is s sigmoid(-logit) for the
    class logit, and sum_c s sigmoid(-obj_logit) for the objectness logit.
    """
    total = logits.new_zeros(())
    tiny, one = torch.finfo(logits.dtype).tiny, logits.new_ones(())
    slope = torch.empty_like(logits, memory_format=torch.contiguous_format) if with_slopes else None
    obj_slope = torch.empty_like(obj_logits) if with_slopes and obj_logits is not None else None
    for n in range(len(logits)):
        for part in slices(logits.shape[1], width, logits.device):
            # 1 - p, kept from underflow; 1 - x = 1 - p + p A, never computed from x; then x.
            miss = logits[n, part].neg().sigmoid_().clamp_(min=tiny)
            rest = miss
            if obj_logits is not None:
                obj_miss = obj_logits[n, part].neg().sigmoid_()
                rest = rest.lerp(one, obj_miss)
            table = found(n, part)
            rest = rest if table is None else rest.lerp(one, table)
            x = 1 - rest
            power, log_rest = x**gamma, rest.log()
            total -= torch.dot(power.flatten(), log_rest.flatten())
            if slope is not None:
                s = x.div_(rest).sub_(log_rest, alpha=gamma).mul_(power)
                torch.mul(s, miss, out=slope[n, part])
                if obj_slope is not None:
                    # Products before sums: s may be near the largest float.
                    torch.sum(s.mul_(obj_miss), dim=1, keepdim=True, out=obj_slope[n, part])
    return total, slope, obj_slope
