"""FCOS's assignment (arXiv:1904.01355): "SSC", spatial and scale constraint, in ATSS's paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvpods.structures.geometry import centers, iou
from cvpods.structures.slices import slices
from cvpods_ext.kernels.assignment import (
    BACKGROUND,
    Assignment,
    all_background,
    check_level_sizes,
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
    """Assign a location to the smallest box around it whose size is in the range of its level.

    1. Spatial: the centre of the anchor lies strictly inside the box.
    2. Scale: the largest of its distances to the four sides lies in the range of its level.
    3. Of several such boxes, take the one with the smallest area (the first of equals). Locations
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
        ValueError: level_sizes do not sum to R, or size_ranges are not one per level.

    Differs from the published code: areas without the legacy one pixel in widths; inside means a
    distance > 0, not > 0.01.
    """
    check_level_sizes(level_sizes, anchors)
    if len(size_ranges) != len(level_sizes):
        raise ValueError(f"{len(level_sizes)} levels need as many size_ranges; got {size_ranges}.")
    anchors, gt_boxes = anchors.float(), gt_boxes.float()
    if len(gt_boxes) == 0 or len(anchors) == 0:
        return all_background(anchors)
    counts = torch.tensor(level_sizes, device=anchors.device)
    bounds = anchors.new_tensor(size_ranges)
    bounds = bounds.repeat_interleave(counts, dim=0, output_size=len(anchors))
    smallest = anchors.new_full((len(anchors),), torch.inf)
    gt_index = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    for part in slices(len(gt_boxes), len(anchors), anchors.device):
        area, row = _areas_in_range(anchors, gt_boxes[part], bounds, inside).min(dim=0)
        smaller = area < smallest  # the first of equals stays
        smallest = torch.where(smaller, area, smallest)
        gt_index = torch.where(smaller, row + part.start, gt_index)
    quality = iou(gt_boxes[gt_index.clamp(min=0)], anchors)
    return Assignment(gt_index, torch.where(gt_index >= 0, quality, 0.0))


def _areas_in_range(anchors: Tensor, gt_boxes: Tensor, bounds: Tensor, inside: float) -> Tensor:
    """Return the area (M, R) of each box if both constraints hold, infinity otherwise.

    Args:
        bounds: (R, 2) the size range of each location's level.
    """
    x, y = centers(anchors).unbind(-1)
    left, top, right, bottom = gt_boxes[:, :, None].unbind(1)  # (M, 1) each
    nearest = torch.minimum(x - left, right - x).minimum(y - top).minimum(bottom - y)  # (M, R)
    farthest = torch.maximum(x - left, right - x).maximum(y - top).maximum(bottom - y)
    low, high = bounds.unbind(1)
    fits = (nearest > inside) & (farthest >= low) & (farthest <= high)
    return torch.where(fits, (right - left) * (bottom - top), torch.inf)
