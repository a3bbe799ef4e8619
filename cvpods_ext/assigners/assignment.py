"""What every assigner returns, and what several of them compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BACKGROUND = -1
IGNORE = -2


class Assignment(NamedTuple):
    """Which box each location answers for.

    gt_index: (R,) int64 index of the box; BACKGROUND or IGNORE where there is none.
    quality: (R,) float32 IoU of the prior with its box; 0 elsewhere.
    """

    gt_index: Tensor
    quality: Tensor


def check_level_sizes(level_sizes: Sequence[int], anchors: Tensor) -> None:
    """ValueError where the anchors of each level do not sum to all anchors (R, 4)."""
    if sum(level_sizes) != len(anchors):
        raise ValueError(f"level_sizes {list(level_sizes)} do not sum to {len(anchors)} anchors.")


def nobody(anchors: Tensor) -> Assignment:
    """None of the anchors (R, 4), float32, answers for a box: images without boxes."""
    background = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    return Assignment(background, anchors.new_zeros(len(anchors)))


def centers(boxes: Tensor) -> Tensor:
    """Centres (..., 2) of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def overlap(gt_boxes: Tensor, anchors: Tensor) -> Tensor:
    """IoU (...) of boxes (..., 4) and anchors (..., 4), which broadcast; 0 without area."""
    left, top, right, bottom = gt_boxes.unbind(-1)
    anchor_left, anchor_top, anchor_right, anchor_bottom = anchors.unbind(-1)
    width = torch.minimum(right, anchor_right) - torch.maximum(left, anchor_left)
    height = torch.minimum(bottom, anchor_bottom) - torch.maximum(top, anchor_top)
    intersection = width.clamp_(min=0).mul_(height.clamp_(min=0))
    area = (right - left) * (bottom - top)
    anchor_area = (anchor_right - anchor_left) * (anchor_bottom - anchor_top)
    return intersection / (area + anchor_area - intersection).clamp_(min=1e-6)


def center_inside(gt_boxes: Tensor, anchors: Tensor, margin: float = 0.0) -> Tensor:
    """(...) whether the centre of the anchor lies strictly inside the box; both broadcast.

    Args:
        margin: pixels from the sides.
    """
    points, boxes = centers(anchors), inset(gt_boxes, margin)
    return ((points > boxes[..., :2]) & (points < boxes[..., 2:])).all(-1)


def inset(boxes: Tensor, margin: float) -> Tensor:
    """Boxes (..., 4) whose sides lie `margin` pixels further in; further out below 0."""
    return boxes + boxes.new_tensor([margin, margin, -margin, -margin])


def best_gt(num_anchors: int, candidates: Tensor, iou: Tensor) -> Assignment:
    """Give every anchor the box of its highest IoU, the first one of equals.

    Args:
        candidates: (M, C) anchors that each box asks for.
        iou: (M, C) with the box; -1 where the candidate is none after all.
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
