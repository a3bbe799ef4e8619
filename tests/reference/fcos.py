"""FCOS' assignment by loops, from the paper (arXiv:1904.01355, section 3.1 and 3.2)."""

from __future__ import annotations

Box = tuple[float, float, float, float]
Point = tuple[float, float]


def distances(point: Point, box: Box) -> tuple[float, float, float, float]:
    """Eq. 1: left, top, right, bottom."""
    return point[0] - box[0], point[1] - box[1], box[2] - point[0], box[3] - point[1]


def center_region(box: Box, radius: float) -> Box:
    """The square of half side `radius` around the centre, clipped to the box."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return (
        max(x - radius, box[0]),
        max(y - radius, box[1]),
        min(x + radius, box[2]),
        min(y + radius, box[3]),
    )


def fcos_assign_loop(
    levels: list[tuple[int, tuple[float, float], list[Point]]],
    boxes: list[Box],
    radius: float = 0.0,
) -> list[int]:
    """Index of the box that every point answers for, -1 for background.

    Args:
        levels: (stride, (smallest, largest) distance the level answers for, points) of each level.
        radius: of center sampling, in strides; 0 takes the whole box.
    """
    chosen = []
    for stride, (low, high), points in levels:
        for point in points:
            candidates = []
            for index, box in enumerate(boxes):
                region = center_region(box, radius * stride) if radius > 0 else box
                inside = min(distances(point, region)) > 0
                if inside and low <= max(distances(point, box)) <= high:
                    area = (box[2] - box[0]) * (box[3] - box[1])
                    candidates.append((area, index))
            chosen.append(min(candidates)[1] if candidates else -1)
    return chosen
