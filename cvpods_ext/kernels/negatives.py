"""The negative term of FreeAnchor, AutoAssign and FeatureAlign: focal loss of the background.

    sum_{j,c} FL(x_jc),  FL(x) = -x^gamma log(1 - x),  x_jc = p_jc (1 - A_jc)

p_jc is the sigmoid of a class logit, times the sigmoid of an objectness logit if the method has
one. A_jc in [0, 1] says how well location j predicts an object of class c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from cvpods.structures.slices import slices


class Table(Protocol):
    """A of one image: a tensor (R, K), or an object that computes the rows it is asked for."""

    def __getitem__(self, part: slice) -> Tensor:
        """Return the rows (r, K) of the locations in `part`."""


# A of each image; None for an image without boxes, where A is 0.
Tables = Sequence[Table | None]


def negative_focal_loss(
    logits: Tensor,
    obj_logits: Tensor | None,
    tables: Tables,
    gamma: float,
    width: int = 0,
    elements_at_once: int | None = None,
) -> Tensor:
    """Return the sum above, a scalar with gradients into both logits.

    Args:
        logits: (N, R, K) float32 or float64.
        obj_logits: (N, R, 1), or None for p = sigmoid(logit).
        tables: N times A.
        width: elements that a table makes for one location, if more than K.
        elements_at_once: size of the slices.
    """
    nothing = torch.zeros(0, dtype=torch.int64, device=logits.device)
    settings = tables, gamma, max(width, logits.shape[2]), elements_at_once
    return _NegativeFocalLoss.apply(logits, obj_logits, nothing, settings)[0]


def negative_focal_loss_and_logits(
    logits: Tensor,
    picked: Tensor,
    tables: Tables,
    gamma: float,
    width: int = 0,
    elements_at_once: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the sum above for p = sigmoid(logit), and the logits at the indices `picked`.

    The gradients of both results share one tensor of the logits' size, where indexing the logits
    would add a second one.

    Args:
        logits: (N, R, K) float32 or float64.
        picked: (...) int64 indices in [0, N * R * K).
        tables, gamma, width, elements_at_once: see negative_focal_loss.

    Returns:
        the loss () and the logits (...).
    """
    settings = tables, gamma, max(width, logits.shape[2]), elements_at_once
    return _NegativeFocalLoss.apply(logits, None, picked, settings)


class _NegativeFocalLoss(torch.autograd.Function):
    """The loss with a gradient written by hand.

    Forward writes the gradients that backward returns, slice by slice. Autograd on the formula
    would keep a handful of tensors of the logits' size.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, obj_logits: Tensor | None, picked: Tensor, settings: tuple
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, obj_logits, picked)
        ctx.settings = settings
        needed = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        total, *ctx.slopes = loss_and_slopes(logits, obj_logits, *settings, with_slopes=needed)
        return total, logits.flatten()[picked]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_picked: Tensor) -> tuple[Tensor | None, ...]:
        logits, obj_logits, picked = ctx.saved_tensors
        (slope, obj_slope), ctx.slopes = ctx.slopes, (None, None)
        if slope is None:  # a second backward pass: the first one used its memory for the result
            settings = ctx.settings
            _, slope, obj_slope = loss_and_slopes(logits, obj_logits, *settings, with_slopes=True)
        slope.mul_(grad).flatten().index_add_(0, picked.flatten(), grad_picked.flatten())
        return slope, None if obj_slope is None else obj_slope.mul_(grad), None, None


def loss_and_slopes(
    logits: Tensor,
    obj_logits: Tensor | None,
    tables: Tables,
    gamma: float,
    width: int,
    elements_at_once: int | None = None,
    *,
    with_slopes: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the sum and its gradients (N, R, K) and (N, R, 1).

    With s = x^gamma (x / (1 - x) - gamma log(1 - x)), the gradient is s sigmoid(-logit) for the
    class logit, and sum_c s sigmoid(-obj_logit) for the objectness logit.
    """
    total = logits.new_zeros(())
    tiny, one = torch.finfo(logits.dtype).tiny, logits.new_ones(())
    slope = torch.empty_like(logits, memory_format=torch.contiguous_format) if with_slopes else None
    obj_slope = torch.empty_like(obj_logits) if with_slopes and obj_logits is not None else None
    for n, table in zip(range(len(logits)), tables, strict=True):
        for part in slices(logits.shape[1], width, logits.device, elements=elements_at_once):
            # 1 - p, kept from underflow; 1 - x = 1 - p + p A, never computed from x; then x.
            miss = logits[n, part].neg().sigmoid_().clamp_(min=tiny)
            rest = miss
            if obj_logits is not None:
                obj_miss = obj_logits[n, part].neg().sigmoid_()
                rest = rest.lerp(one, obj_miss)
            if table is not None:
                rest = rest.lerp(one, table[part])
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
