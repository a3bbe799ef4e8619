"""The check of ground truth that all losses of bags make."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
