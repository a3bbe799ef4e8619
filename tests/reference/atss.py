"""ATSS by loops, written from the paper (arXiv:1912.02424, Algorithm 1) in plain Python numbers."""

from __future__ import annotations

import math
import statistics

from tests.reference.boxes import Box, giou, iou, is_inside


def center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def atss_assign_loop(
    anchors: list[Box], level_sizes: list[int], gt_boxes: list[Box], topk: int
) -> list[int]:
    """Index of the box that each anchor answers for; -1 is background."""
    best: list[tuple[float, int]] = [(-1.0, -1)] * len(anchors)
    for g, gt in enumerate(gt_boxes):
        candidates: list[int] = []
        start = 0
        for size in level_sizes:
            level = range(start, start + size)
            by_distance = sorted(level, key=lambda j: math.dist(center(anchors[j]), center(gt)))
            candidates += by_distance[:topk]
            start += size
        ious = [iou(anchors[j], gt) for j in candidates]
        spread = statistics.stdev(ious) if len(ious) > 1 else 0.0
        threshold = statistics.fmean(ious) + spread
        for j, value in zip(candidates, ious, strict=True):
            # Of equal IoUs the first box wins: replace only by a higher one.
            if value >= threshold and is_inside(center(anchors[j]), gt) and value > best[j][0]:
                best[j] = (value, g)
    return [g for _, g in best]


def focal_loss_loop(logit: float, target: int, alpha: float, gamma: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    if target:
        return -alpha * (1 - p) ** gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(1 - p)


def centerness(point: tuple[float, float], box: Box) -> float:
    left, right = point[0] - box[0], box[2] - point[0]
    top, bottom = point[1] - box[1], box[3] - point[1]
    horizontal = min(left, right) / max(left, right)
    return math.sqrt(horizontal * min(top, bottom) / max(top, bottom))


def atss_loss_loop(
    cls_logits: list[list[float]],
    boxes: list[Box],
    quality_logits: list[float],
    anchors: list[Box],
    gt_index: list[int],
    gt_boxes: list[Box],
    gt_classes: list[int],
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> dict[str, float]:
    """Sums of the three losses of one image."""
    sums = {"loss_cls": 0.0, "loss_box_reg": 0.0, "loss_centerness": 0.0}
    for j, g in enumerate(gt_index):
        for k, logit in enumerate(cls_logits[j]):
            target = int(g >= 0 and gt_classes[g] == k)
            sums["loss_cls"] += focal_loss_loop(logit, target, alpha, gamma)
        if g < 0:
            continue
        wanted = centerness(center(anchors[j]), gt_boxes[g])
        sums["loss_box_reg"] += wanted * (1 - giou(boxes[j], gt_boxes[g]))
        p = 1 / (1 + math.exp(-quality_logits[j]))
        sums["loss_centerness"] -= wanted * math.log(p) + (1 - wanted) * math.log(1 - p)
    return sums
