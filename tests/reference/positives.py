"""Other ways to choose positives, by loops: those of ATSS' paper (arXiv:1912.02424, Sec. 3.2).

Every function gives the index of the box of each anchor; -1 is background, -2 ignored.
"""

from __future__ import annotations

import math

from tests.reference.atss import center
from tests.reference.boxes import Box, area, iou, is_inside
from tests.reference.fcos import distances


def scale_range_assign_loop(
    anchors: list[Box],
    level_sizes: list[int],
    gt_boxes: list[Box],
    size_ranges: list[tuple[float, float]],
) -> list[int]:
    """FCOS (arXiv:1904.01355, Sec. 3.2): inside, of a size that the level answers for, smallest."""
    chosen = []
    for j, anchor in enumerate(anchors):
        level, rest = 0, j
        while rest >= level_sizes[level]:
            rest -= level_sizes[level]
            level += 1
        low, high = size_ranges[level]
        winner = -1
        for g, gt in enumerate(gt_boxes):
            ltrb = distances(center(anchor), gt)
            if min(ltrb) <= 0 or not low <= max(ltrb) <= high:
                continue
            if winner < 0 or area(gt) < area(gt_boxes[winner]):
                winner = g
        chosen.append(winner)
    return chosen


def max_iou_assign_loop(
    anchors: list[Box], gt_boxes: list[Box], positive: float = 0.5, negative: float = 0.4
) -> list[int]:
    """RetinaNet (arXiv:1708.02002, Sec. 4), each box keeps its best anchors; centres inside."""
    table = [[iou(anchor, gt) for gt in gt_boxes] for anchor in anchors]
    # Best anchors of each box: all that share its highest IoU, if that is above 0.
    kept: set[int] = set()
    for g in range(len(gt_boxes)):
        highest = max(row[g] for row in table)
        if highest > 0:
            kept |= {j for j, row in enumerate(table) if row[g] == highest}
    chosen = []
    for j, row in enumerate(table):
        best = max(row)
        g = row.index(best)
        if j in kept or best >= positive:
            chosen.append(g if is_inside(center(anchors[j]), gt_boxes[g]) else -2)
        else:
            chosen.append(-1 if best < negative else -2)
    return chosen


def topk_iou_assign_loop(anchors: list[Box], gt_boxes: list[Box], topk: int) -> list[int]:
    """Per box the anchors of the highest IoU - distance / (largest in the image) / 1000."""
    far = max(math.dist(center(anchor), center(gt)) for anchor in anchors for gt in gt_boxes)
    best: list[tuple[float, int]] = [(-1.0, -1)] * len(anchors)
    for g, gt in enumerate(gt_boxes):
        merit = {
            j: iou(anchor, gt) - math.dist(center(anchor), center(gt)) / far / 1000
            for j, anchor in enumerate(anchors)
        }
        for j in sorted(merit, key=merit.__getitem__, reverse=True)[:topk]:
            value = iou(anchors[j], gt)
            # Of equal IoUs the first box stays.
            if is_inside(center(anchors[j]), gt) and value > best[j][0]:
                best[j] = (value, g)
    return [g for _, g in best]
