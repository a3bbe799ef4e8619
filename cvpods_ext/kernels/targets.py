"""Checks of the arguments of the losses, and their common precision."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor


def check_outputs(cls_logits: Tensor, **others: tuple[Tensor, tuple[int, ...]]) -> None:
    """Raise ValueError, naming the argument, unless all shapes go together.

    Args:
        cls_logits: (N, R, K), N > 0.
        others: each further argument with the shape that it must have.
    """
    if cls_logits.dim() != 3 or len(cls_logits) == 0:
        raise ValueError(
            f"cls_logits must be (N, R, K) of N > 0 images, got {tuple(cls_logits.shape)}."
        )
    for name, (tensor, shape) in others.items():
        if tensor.shape != shape:
            raise ValueError(
                f"cls_logits {tuple(cls_logits.shape)} need {name} {shape}, got "
                f"{tuple(tensor.shape)}."
            )


def check_targets(n: int, gt_boxes: Sequence[Tensor], gt_classes: Sequence[Tensor]) -> None:
    """Raise ValueError unless there are n of (M_n, 4) boxes and of (M_n,) int64 classes."""
    if len(gt_boxes) != n or len(gt_classes) != n:
        raise ValueError(
            f"{n} images need as many gt_boxes and gt_classes; got {len(gt_boxes)} and "
            f"{len(gt_classes)}."
        )
    for boxes, classes in zip(gt_boxes, gt_classes, strict=True):
        if classes.dtype != torch.int64:
            raise ValueError(f"gt_classes must be int64; got {classes.dtype}.")
        if classes.dim() != 1:
            raise ValueError(f"gt_classes must be (M,); got {tuple(classes.shape)}.")
        if boxes.shape != (len(classes), 4):
            raise ValueError(
                f"{len(classes)} classes need boxes ({len(classes)}, 4); got {tuple(boxes.shape)}."
            )


def common_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the precision that all tensors fit in, float32 at least."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
