"""maskrcnn-benchmark's boxes: (x2, y2) is the last pixel inside, a width is x2 - x1 + 1."""

from __future__ import annotations

import math

from tests.reference.boxes import Box


def size(box: Box) -> tuple[float, float]:
    return box[2] - box[0] + 1, box[3] - box[1] + 1


def around(x: float, y: float, width: float, height: float) -> Box:
    """The box of that size whose outermost pixels' centres are equally far from (x, y)."""
    return (x - (width - 1) / 2, y - (height - 1) / 2, x + (width - 1) / 2, y + (height - 1) / 2)


def cell_anchors(
    stride: int, sizes: list[float], ratios: list[float], first: float
) -> dict[tuple[float, float], Box]:
    """{(size, ratio): anchor} of the first cell, whose window is (first, first, first + stride - 1,
    ...); the sides of every ratio are rounded, then scaled."""
    middle = first + (stride - 1) / 2
    anchors = {}
    for ratio in ratios:
        width = round(math.sqrt(stride * stride / ratio))
        height = round(width * ratio)
        for one in sizes:
            scale = one / stride
            anchors[one, ratio] = around(middle, middle, width * scale, height * scale)
    return anchors


def shifted(box: Box, x: float, y: float) -> Box:
    return (box[0] + x, box[1] + y, box[2] + x, box[3] + y)


def decode(deltas: list[float], anchor: Box, weights: tuple[float, ...] = (10, 10, 5, 5)) -> Box:
    width, height = size(anchor)
    dx, dy, dw, dh = (d / w for d, w in zip(deltas, weights, strict=True))
    x, y = (anchor[0] + anchor[2]) / 2 + dx * width, (anchor[1] + anchor[3]) / 2 + dy * height
    limit = math.log(1000 / 16)
    return around(x, y, width * math.exp(min(dw, limit)), height * math.exp(min(dh, limit)))


def decode_point(outputs: list[float], anchor: Box) -> Box:
    """ATSS' POINT: distances to the sides in eighths of the anchor."""
    width, height = size(anchor)
    x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
    left, top, right, bottom = (max(value, 0.0) for value in outputs)
    return (
        x - left / 8 * width,
        y - top / 8 * height,
        x + right / 8 * width,
        y + bottom / 8 * height,
    )


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(width, 0.0) * max(height, 0.0)
    areas = math.prod(size(a)) + math.prod(size(b))
    return shared / (areas - shared)


def clipped(box: Box, width: int, height: int) -> Box:
    x1, x2 = (min(max(x, 0.0), width - 1.0) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), height - 1.0) for y in (box[1], box[3]))
    return (x1, y1, x2, y2)


def nms(found: list[tuple[float, int, Box]], threshold: float) -> list[tuple[float, int, Box]]:
    """Of (score, class, box), best first; a class at a time."""
    kept: list[tuple[float, int, Box]] = []
    for one in sorted(found, reverse=True):
        if all(one[1] != k[1] or iou(one[2], k[2]) <= threshold for k in kept):
            kept.append(one)
    return kept


def resized(box: Box, x: float, y: float) -> Box:
    return (box[0] * x, box[1] * y, box[2] * x, box[3] * y)


def with_sides(box: Box) -> Box:
    """As COCO's evaluation takes it: corner and width, here (x1, y1, x1 + width, y1 + height)."""
    width, height = size(box)
    return (box[0], box[1], box[0] + width, box[1] + height)


def without_sides(box: Box) -> Box:
    """COCO's (x, y, x + width, y + height) as it is read."""
    return (box[0], box[1], box[2] - 1, box[3] - 1)
