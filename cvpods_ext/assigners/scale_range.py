"""FCOS' positives (arXiv:1904.01355), a spatial and a scale constraint: ATSS's "SSC"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvpods_ext.assigners.assignment import (
    BACKGROUND,
    Assignment,
    centers,
    check_level_sizes,
    nobody,
    overlap,
)


@torch.no_grad()
def scale_range_assign(
    anchors: Tensor,
    level_sizes: Sequence[int],
    gt_boxes: Tensor,
    *,
    size_ranges: Sequence[tuple[float, float]],
    inside: float = 0.0,
) -> Assignment:
    """Assign a location to the smallest box that contains it and whose size its level answers for.

    1. Spatial: the centre of the anchor lies strictly inside the box.
    2. Scale: the largest of its distances to the four sides lies in the range of its level.
    3. Of several such boxes, the one with the smallest area (first one of equals). Locations
       without any are background.

    Args:
        anchors: (R, 4) xyxy, pixels of the padded input; only their centres decide.
        level_sizes: anchors of each level; they sum to R.
        gt_boxes: (M, 4) xyxy, pixels of the padded input.
        size_ranges: per level (low, high) in pixels, both included.
        inside: pixels by which the centre must lie inside the box.

    Returns:
        Assignment(gt_index (R,), quality (R,)).

    Raises:
        ValueError: level_sizes do not sum to R, or there is not one range per level.

    Differs from the published code: areas without the legacy one pixel in widths; inside means a
    distance > 0, not > 0.01.
    """
    check_level_sizes(level_sizes, anchors)
    if len(size_ranges) != len(level_sizes):
        raise ValueError(f"{len(level_sizes)} levels need as many size_ranges; got {size_ranges}.")
    anchors, gt_boxes = anchors.float(), gt_boxes.float()
    if len(gt_boxes) == 0 or len(anchors) == 0:
        return nobody(anchors)
    x, y = centers(anchors).unbind(-1)
    left, top, right, bottom = gt_boxes[:, :, None].unbind(1)  # (M, 1) each
    nearest = torch.minimum(x - left, right - x).minimum(y - top).minimum(bottom - y)  # (M, R)
    farthest = torch.maximum(x - left, right - x).maximum(y - top).maximum(bottom - y)
    counts = torch.tensor(level_sizes, device=x.device)
    bounds = x.new_tensor(size_ranges).repeat_interleave(counts, dim=0, output_size=len(x))
    low, high = bounds.unbind(1)
    fits = (nearest > inside) & (farthest >= low) & (farthest <= high)
    areas = ((right - left) * (bottom - top)).expand_as(nearest)
    smallest, gt_index = torch.where(fits, areas, torch.inf).min(dim=0)
    positive = smallest < torch.inf
    quality = torch.where(positive, overlap(gt_boxes[gt_index], anchors), 0.0)
    return Assignment(torch.where(positive, gt_index, BACKGROUND), quality)
