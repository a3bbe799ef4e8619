"""Boxes (x1, y1, x2, y2) in plain Python numbers."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (area(a) + area(b) - width * height)


def giou(a: Box, b: Box) -> float:
    """Of boxes of which one at least has an area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    union = area(a) + area(b) - max(width, 0) * max(height, 0)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return iou(a, b) - (hull - union) / hull


def is_inside(point: Sequence[float], box: Box) -> bool:
    """Strictly."""
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]
