"""Geometry of boxes; every formula of the project stands here once.

Boxes are corners (x1, y1, x2, y2), shape (..., 4); points are (x, y), shape (..., 2); both in
pixels. The leading dimensions of two arguments broadcast against each other: boxes (M, 1, 4) and
(R, 4) give a table (M, R), two tensors (P, 4) give (P,).

The epsilon rule: the denominator of a quotient of areas is kept at or above EPS square pixels. So
two boxes without area have an IoU of 0, and gradients stay finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


def sizes(boxes: Tensor) -> Tensor:
    """Return width and height (..., 2) of boxes (..., 4)."""
    return boxes[..., 2:] - boxes[..., :2]


def areas(boxes: Tensor) -> Tensor:
    """Return the areas (...) of boxes (..., 4); 0 for boxes whose corners are swapped."""
    width, height = sizes(boxes).clamp(min=0).unbind(-1)
    return width * height


def centers(boxes: Tensor) -> Tensor:
    """Return the centres (..., 2) of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def has_area(boxes: Tensor) -> Tensor:
    """Return (...) bool: whether boxes (..., 4) are wider and higher than 0."""
    return (boxes[..., 2:] > boxes[..., :2]).all(-1)


def intersections(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the areas (...) that boxes (..., 4) share."""
    # Coordinate by coordinate: tables (M, R) are faster than tables (M, R, 2).
    left1, top1, right1, bottom1 = boxes1.unbind(-1)
    left2, top2, right2, bottom2 = boxes2.unbind(-1)
    width = torch.minimum(right1, right2) - torch.maximum(left1, left2)
    height = torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)
    return width.clamp(min=0) * height.clamp(min=0)


def intersections_and_unions(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas (...) that boxes (..., 4) share, and those that they cover together."""
    intersection = intersections(boxes1, boxes2)
    return intersection, areas(boxes1) + areas(boxes2) - intersection


def iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the intersection over union (...) of boxes (..., 4); 0 if both have no area."""
    intersection, union = intersections_and_unions(boxes1, boxes2)
    return intersection / union.clamp(min=EPS)


def iou_table(rows: Tensor, columns: Tensor) -> Tensor:
    """Return iou() of all pairs, (M, R), with a third of its memory traffic and without gradient.

    The losses and assigners that compare many boxes spend their time here.

    Args:
        rows: (4, M, 1) of as_rows(); columns: (4, 1, R) of as_columns().
    """
    x1, y1, x2, y2 = columns
    row_x1, row_y1, row_x2, row_y2 = rows
    width = torch.minimum(row_x2, x2).sub_(torch.maximum(row_x1, x1)).clamp_(min=0)
    height = torch.minimum(row_y2, y2).sub_(torch.maximum(row_y1, y1)).clamp_(min=0)
    intersection = width.mul_(height)
    union = ((row_x2 - row_x1) * (row_y2 - row_y1)) + ((x2 - x1) * (y2 - y1))
    union.sub_(intersection).clamp_(min=EPS)
    return intersection.div_(union)


def as_rows(boxes: Tensor) -> Tensor:
    """Return boxes (M, 4) as the rows (4, M, 1) of a table."""
    return boxes.t().contiguous()[:, :, None]


def as_columns(boxes: Tensor) -> Tensor:
    """Return boxes (R, 4) as the columns (4, 1, R) of a table."""
    return boxes.t().contiguous()[:, None, :]


def generalized_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return GIoU (...) of boxes (..., 4), in [-1, 1] (arXiv:1902.09630, Algorithm 1)."""
    intersection, union = intersections_and_unions(boxes1, boxes2)
    return intersection / union.clamp(min=EPS) - empty_share(boxes1, boxes2, union)


def empty_share(boxes1: Tensor, boxes2: Tensor, union: Tensor) -> Tensor:
    """Return the share (...) of the enclosing box that neither box covers: IoU minus GIoU.

    Args:
        union: (...) area of the union of boxes1 and boxes2 (..., 4).
    """
    hull = areas(enclosing(boxes1, boxes2))
    return (hull - union) / hull.clamp(min=EPS)


def enclosing(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the smallest boxes (..., 4) around pairs of boxes (..., 4)."""
    top_left = torch.minimum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.maximum(boxes1[..., 2:], boxes2[..., 2:])
    return torch.cat([top_left, bottom_right], dim=-1)


def distances_to_sides(points: Tensor, boxes: Tensor) -> Tensor:
    """Return the distances (..., 4) from points (..., 2) to the sides: left, top, right, bottom.

    They are negative for sides that a point lies beyond (FCOS, arXiv:1904.01355, Eq. 1).
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def boxes_around(points: Tensor, distances: Tensor) -> Tensor:
    """Return the boxes (..., 4) whose sides lie `distances` (..., 4) from points (..., 2)."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def centerness_of(distances: Tensor) -> Tensor:
    """Return sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), (...) in [0, 1]; 0 outside.

    FCOS, arXiv:1904.01355, Eq. 3.

    Args:
        distances: (..., 4) from a point to the sides: left, top, right, bottom.
    """
    horizontal, vertical = distances[..., [0, 2]], distances[..., [1, 3]]
    eps = torch.finfo(distances.dtype).eps
    ratio = horizontal.amin(-1) / horizontal.amax(-1).clamp(min=eps)
    ratio = ratio.clamp(min=0) * (vertical.amin(-1) / vertical.amax(-1).clamp(min=eps)).clamp(min=0)
    return ratio.sqrt()


def is_inside(points: Tensor, boxes: Tensor, margin: float = 0.0) -> Tensor:
    """Return (...) bool: whether points (..., 2) lie more than `margin` pixels inside boxes."""
    inner = inset(boxes, margin) if margin else boxes
    return ((points > inner[..., :2]) & (points < inner[..., 2:])).all(-1)


def inset(boxes: Tensor, margin: float) -> Tensor:
    """Return boxes (..., 4) whose sides lie `margin` pixels further inside (outside below 0)."""
    return boxes + boxes.new_tensor([margin, margin, -margin, -margin])


def clip(boxes: Tensor, height: float | Tensor, width: float | Tensor) -> Tensor:
    """Return boxes (..., 4) clipped to an image of this size; tensors (...) give each its own."""
    return boxes.clamp(min=0).minimum(image_corners(boxes, height, width))


def image_corners(boxes: Tensor, height: float | Tensor, width: float | Tensor) -> Tensor:
    """Return (width, height, width, height), (..., 4), in the type and on the device of `boxes`."""
    if isinstance(height, Tensor) and isinstance(width, Tensor):
        return torch.stack([width, height, width, height], dim=-1).to(boxes)
    return boxes.new_tensor([width, height, width, height])
