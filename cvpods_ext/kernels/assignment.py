"""The result of every assigner, and steps that several assigners share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BACKGROUND = -1
IGNORE = -2


class Assignment(NamedTuple):
    """The box that each location is assigned to.

    gt_index: (R,) int64 index of the box, or BACKGROUND, or IGNORE.
    quality: (R,) float32 IoU of the prior with its box; 0 for background and ignored locations.
    """

    gt_index: Tensor
    quality: Tensor


def check_level_sizes(level_sizes: Sequence[int], anchors: Tensor) -> None:
    """Raise ValueError unless the numbers of anchors of the levels sum to all anchors (R, 4)."""
    if sum(level_sizes) != len(anchors):
        raise ValueError(f"level_sizes {list(level_sizes)} do not sum to {len(anchors)} anchors.")


def all_background(anchors: Tensor) -> Assignment:
    """Return the assignment of an image without boxes, for anchors (R, 4) in float32."""
    background = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    return Assignment(background, anchors.new_zeros(len(anchors)))


def best_gt(num_anchors: int, candidates: Tensor, iou: Tensor) -> Assignment:
    """Assign every anchor to the box of its highest IoU; of equal ones, to the first.

    Args:
        candidates: (M, C) candidate anchors of each box.
        iou: (M, C) IoU with the box; -1 for candidates that were rejected.
    """
    flat_candidates, flat_iou = candidates.flatten(), iou.flatten()
    gt = torch.arange(len(iou), device=iou.device)[:, None].expand_as(iou).flatten()
    quality = iou.new_full((num_anchors,), -1.0)
    quality = quality.scatter_reduce(0, flat_candidates, flat_iou, "amax")
    is_best = (flat_iou >= 0) & (flat_iou == quality[flat_candidates])
    gt_index = torch.full((num_anchors,), len(iou), device=iou.device)
    gt_index = gt_index.scatter_reduce(
        0, flat_candidates, torch.where(is_best, gt, len(iou)), "amin"
    )
    gt_index = torch.where(gt_index == len(iou), BACKGROUND, gt_index)
    return Assignment(gt_index, quality.clamp(min=0))
