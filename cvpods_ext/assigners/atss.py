"""Adaptive training sample selection (ATSS, arXiv:1912.02424, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvpods_ext.assigners.assignment import BACKGROUND, Assignment


@torch.no_grad()
def atss_assign(
    anchors: Tensor, level_sizes: Sequence[int], gt_boxes: Tensor, *, topk: int = 9
) -> Assignment:
    """Assign anchors to boxes by a threshold that each box derives from its own candidates.

    1. Candidates of a box: on every level, the `topk` anchors whose centres are nearest to the
       centre of the box (all anchors of a level that has fewer).
    2. Threshold of the box: mean + standard deviation (n - 1) of its candidates' IoUs; with a
       single candidate, its IoU.
    3. Positive: a candidate with IoU >= threshold and its centre strictly inside the box.
    4. An anchor positive for several boxes answers for the one with the highest IoU (first one of
       equals). All others are background. A box may end up with no anchor.

    Args:
        anchors: (R, 4) xyxy, pixels of the padded input, levels one after the other.
        level_sizes: anchors of each level; they sum to R.
        gt_boxes: (M, 4) xyxy, pixels of the padded input.
        topk: candidates per level; k times the number of anchors of one location, as published.

    Returns:
        Assignment(gt_index (R,), quality (R,)).

    Raises:
        ValueError: level_sizes do not sum to R, or topk < 1.

    Differs from the published code: continuous boxes, without the legacy one pixel in widths; the
    centre is inside when all distances are > 0, not > 0.01; a box without area has no anchors.
    """
    num_anchors, num_gts = len(anchors), len(gt_boxes)
    if sum(level_sizes) != num_anchors:
        raise ValueError(f"level_sizes {list(level_sizes)} do not sum to {num_anchors} anchors.")
    if topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}.")
    anchors, gt_boxes = anchors.float(), gt_boxes.float()
    if num_gts == 0 or num_anchors == 0:
        background = torch.full((num_anchors,), BACKGROUND, device=anchors.device)
        return Assignment(background, anchors.new_zeros(num_anchors))

    candidates = _nearest_per_level(anchors, level_sizes, gt_boxes, topk)  # (M, C)
    iou, inside = _compare(gt_boxes[:, None], anchors[candidates])  # (M, C) both
    spread = iou.std(dim=1) if iou.shape[1] > 1 else torch.zeros_like(iou[:, 0])
    positive = inside & (iou >= (iou.mean(dim=1) + spread)[:, None])
    return _best_gt(num_anchors, candidates, torch.where(positive, iou, -1.0))


def _nearest_per_level(
    anchors: Tensor, level_sizes: Sequence[int], gt_boxes: Tensor, topk: int
) -> Tensor:
    """Indices (M, C) of the anchors nearest to each box, level by level."""
    gt_x, gt_y = ((gt_boxes[:, None, :2] + gt_boxes[:, None, 2:]) / 2).unbind(-1)
    anchor_x, anchor_y = ((anchors[:, :2] + anchors[:, 2:]) / 2).unbind(-1)
    distances = (gt_x - anchor_x).square_().add_((gt_y - anchor_y).square_())  # squared, (M, R)
    nearest, start = [], 0
    for level in distances.split(list(level_sizes), dim=1):
        k = min(topk, level.shape[1])
        nearest.append(level.topk(k, dim=1, largest=False, sorted=False).indices + start)
        start += level.shape[1]
    return torch.cat(nearest, dim=1)


def _compare(gt_boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """IoU (...) of boxes and anchors (..., 4), and whether the anchor's centre is in the box."""
    low = torch.maximum(gt_boxes[..., :2], anchors[..., :2])
    high = torch.minimum(gt_boxes[..., 2:], anchors[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (gt_boxes, anchors)]
    iou = intersection / (areas[0] + areas[1] - intersection).clamp(min=1e-6)
    center = (anchors[..., :2] + anchors[..., 2:]) / 2
    inside = ((center > gt_boxes[..., :2]) & (center < gt_boxes[..., 2:])).all(-1)
    return iou, inside


def _best_gt(num_anchors: int, candidates: Tensor, iou: Tensor) -> Assignment:
    """Give every anchor the box of its highest IoU (M, C); an IoU of -1 is no candidate."""
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
