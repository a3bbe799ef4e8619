"""Focal loss (arXiv:1708.02002)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import ops


def at_least_float32(tensor: Tensor) -> Tensor:
    """bfloat16 and float16 as float32; float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def sigmoid_focal_loss_jit(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = -1.0,
    gamma: float = 2.0,
    reduction: str = "none",
) -> Tensor:
    """Focal loss, Eq. 5: -alpha_t (1 - p_t)^gamma log(p_t). torchvision's, by cvpods' name.

    Args:
        inputs: logits, any shape; halves are computed in float32.
        targets: 0 or 1, same shape.
        alpha: weight of positives, 1 - alpha of negatives; < 0: no weights.
        reduction: "none", "mean" or "sum".
    """
    inputs = at_least_float32(inputs)
    return ops.sigmoid_focal_loss(inputs, targets.to(inputs.dtype), alpha, gamma, reduction)


sigmoid_focal_loss = sigmoid_focal_loss_jit
