"""RetinaNet's assignment by loops, from the paper (arXiv:1708.02002, section 4)."""

from __future__ import annotations

import math

from tests.reference.boxes import Box, iou


def box_deltas(anchor: Box, box: Box) -> list[float]:
    """R-CNN (arXiv:1311.2524), Eq. 6 to 9."""
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    return [
        ((box[0] + box[2]) - (anchor[0] + anchor[2])) / 2 / width,
        ((box[1] + box[3]) - (anchor[1] + anchor[3])) / 2 / height,
        math.log((box[2] - box[0]) / width),
        math.log((box[3] - box[1]) / height),
    ]


def retinanet_assign_loop(
    anchors: list[Box], boxes: list[Box], low: float = 0.4, high: float = 0.5
) -> list[tuple[int, int]]:
    """(label, index of the box) of every anchor; label 1 object, 0 background, -1 ignored.

    1. An anchor takes the box of its best IoU: below `low` background, from `high` on object.
    2. The best anchors of every box that overlaps any are objects as well.
    """
    result = []
    for anchor in anchors:
        overlaps = [iou(anchor, box) for box in boxes]
        best = max(overlaps)
        label = 0 if best < low else (1 if best >= high else -1)
        result.append((label, overlaps.index(best)))
    for box in boxes:
        best = max(iou(anchor, box) for anchor in anchors)
        for i, anchor in enumerate(anchors):
            if best > 0 and iou(anchor, box) == best:
                result[i] = (1, result[i][1])
    return result
