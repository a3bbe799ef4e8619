"""Checks of the arguments of the losses."""

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


def check_location_inputs(
    cls_logits: Tensor,
    obj_logits: Tensor,
    ltrb: Tensor,
    points: Tensor,
    strides: Tensor,
    prior_shape: tuple[int, ...],
    mu: Tensor,
    sigma: Tensor,
    gt_boxes: Sequence[Tensor],
    gt_classes: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Check the arguments that the losses of AutoAssign and FeatureAlign share.

    Args:
        prior_shape: dimensions of mu and sigma before (K, 2): (), or (L,) for a prior per level.

    Returns:
        cls_logits, obj_logits and ltrb in the precision that all fit in, float32 at least.

    Raises:
        ValueError: shapes that do not go together, no image, or classes that are not int64.
    """
    n, r, k = cls_logits.shape if cls_logits.dim() == 3 else (0, 0, 0)
    check_outputs(
        cls_logits,
        obj_logits=(obj_logits, (n, r, 1)),
        ltrb=(ltrb, (n, r, 4)),
        points=(points, (r, 2)),
        strides=(strides, (r,)),
        mu=(mu, (*prior_shape, k, 2)),
        sigma=(sigma, (*prior_shape, k, 2)),
    )
    check_targets(n, gt_boxes, gt_classes)
    outputs = cls_logits, obj_logits, ltrb
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in outputs), torch.float32)
    return cls_logits.to(dtype), obj_logits.to(dtype), ltrb.to(dtype)
