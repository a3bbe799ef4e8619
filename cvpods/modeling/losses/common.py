"""Helpers of element-wise losses: precision, targets, reduction."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return bfloat16 and float16 as float32, and float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def one_hot(classes: Tensor, num_classes: int) -> Tensor:
    """Return (..., K) bool, true at the class; all false for K (background) and -1 (ignored)."""
    return classes[..., None] == torch.arange(num_classes, device=classes.device)


def reduce_loss(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Multiply the loss by `weight`, then reduce it by "none", "mean" or "sum".

    The mean of no elements is 0; with weights, the sum is divided by that of the weights.

    Raises:
        ValueError: the reduction is unknown.
    """
    if weight is not None:
        loss = loss * weight
    if reduction == "mean":
        if weight is None:
            return loss.sum() / max(loss.numel(), 1)
        return loss.sum() / weight.sum().clamp(min=torch.finfo(torch.float32).eps)
    if reduction == "sum":
        return loss.sum()
    if reduction == "none":
        return loss
    raise ValueError(f"reduction must be 'none', 'mean' or 'sum'; got {reduction!r}.")
