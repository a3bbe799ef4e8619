"""Adaptive training sample selection (ATSS, arXiv:1912.02424, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvpods.structures.geometry import centers, iou, is_inside
from cvpods.structures.slices import slices
from cvpods_ext.kernels.assignment import (
    Assignment,
    all_background,
    best_gt,
    check_level_sizes,
)


@torch.no_grad()
def atss_assign(
    anchors: Tensor,
    level_sizes: Sequence[int],
    gt_boxes: Tensor,
    *,
    topk: int = 9,
    inside: float = 0.0,
) -> Assignment:
    """Assign anchors to boxes by a threshold that each box derives from its own candidates.

    1. Candidates of a box: on every level, the `topk` anchors whose centres are nearest to the
       centre of the box (all anchors of a level that has fewer).
    2. Threshold of the box: mean + standard deviation (n - 1) of its candidates' IoUs; with a
       single candidate, its IoU.
    3. Positive: a candidate with IoU >= threshold and its centre strictly inside the box.
    4. An anchor that is positive for several boxes is assigned to the one of the highest IoU (the
       first of equals). All others are background. A box may end up without an anchor.

    Args:
        anchors: (R, 4) xyxy, pixels of the padded input, levels one after the other.
        level_sizes: anchors of each level; they sum to R.
        gt_boxes: (M, 4) xyxy, pixels of the padded input.
        topk: candidates per level; k times the number of anchors of one location, as published.
        inside: pixels by which the centre must lie inside the box.

    Returns:
        Assignment(gt_index (R,), quality (R,)).

    Raises:
        ValueError: level_sizes do not sum to R, or topk < 1.

    Differs from the published code: continuous boxes, without the legacy one pixel in widths; the
    centre is inside when all distances are > 0, not > 0.01; a box without area has no anchors.
    """
    check_level_sizes(level_sizes, anchors)
    if topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}.")
    anchors, gt_boxes = anchors.float(), gt_boxes.float()
    if len(gt_boxes) == 0 or len(anchors) == 0:
        return all_background(anchors)

    candidates = nearest_per_level(anchors, level_sizes, gt_boxes, topk)  # (M, C)
    boxes, chosen = gt_boxes[:, None], anchors[candidates]  # (M, 1, 4), (M, C, 4)
    ious = iou(boxes, chosen)  # (M, C)
    spread = ious.std(dim=1) if ious.shape[1] > 1 else torch.zeros_like(ious[:, 0])
    threshold = (ious.mean(dim=1) + spread)[:, None]
    positive = (ious >= threshold) & is_inside(centers(chosen), boxes, inside)
    return best_gt(len(anchors), candidates, torch.where(positive, ious, -1.0))


def nearest_per_level(
    anchors: Tensor,
    level_sizes: Sequence[int],
    gt_boxes: Tensor,
    topk: int,
    elements_at_once: int | None = None,
) -> Tensor:
    """Return the indices (M, C) of the anchors nearest to each box, level by level.

    Args:
        elements_at_once: size of the tables of distances.
    """
    counts = [min(topk, size) for size in level_sizes]
    # Made at once: a list of small results would keep the slices' memory from being used again.
    nearest = torch.empty(len(gt_boxes), sum(counts), dtype=torch.int64, device=anchors.device)
    for part in slices(len(gt_boxes), len(anchors), anchors.device, elements=elements_at_once):
        distances, start = _squared_distances(anchors, gt_boxes[part]), 0
        indices = []
        for level, k in zip(distances.split(list(level_sizes), dim=1), counts, strict=True):
            indices.append(level.topk(k, dim=1, largest=False, sorted=False).indices + start)
            start += level.shape[1]
        nearest[part] = torch.cat(indices, dim=1)
    return nearest


def _squared_distances(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    """Return the squared distances (M, R) of the centres, in square pixels."""
    gt_x, gt_y = centers(gt_boxes)[:, None].unbind(-1)
    anchor_x, anchor_y = centers(anchors).unbind(-1)
    return (gt_x - anchor_x).square_().add_((gt_y - anchor_y).square_())
