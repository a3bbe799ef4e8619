"""FreeAnchor in plain Python numbers, one box and one anchor at a time (arXiv:1909.02466)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.reference.boxes import Box, iou

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def encode(anchor: Box, box: Box) -> list[float]:
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    dx = (box[0] + box[2] - anchor[0] - anchor[2]) / 2 / width
    dy = (box[1] + box[3] - anchor[1] - anchor[3]) / 2 / height
    dw = math.log((box[2] - box[0]) / width)
    dh = math.log((box[3] - box[1]) / height)
    return [w * d for w, d in zip(WEIGHTS, (dx, dy, dw, dh), strict=True)]


def decode(anchor: Box, deltas: Sequence[float]) -> Box:
    dx, dy, dw, dh = (d / w for w, d in zip(WEIGHTS, deltas, strict=True))
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    cx = (anchor[0] + anchor[2]) / 2 + dx * width
    cy = (anchor[1] + anchor[3]) / 2 + dy * height
    width *= math.exp(min(dw, math.log(1000 / 16)))
    height *= math.exp(min(dh, math.log(1000 / 16)))
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def smooth_l1(error: float, beta: float) -> float:
    error = abs(error)
    return error**2 / (2 * beta) if error < beta else error - beta / 2


def mean_max(x: list[float]) -> float:
    weights = [1 / max(1 - value, 1e-12) for value in x]
    return sum(v * w for v, w in zip(x, weights, strict=True)) / sum(weights)


def found_loop(boxes: list[Box], gt_boxes: list[Box], threshold: float) -> list[list[float]]:
    """P{anchor j -> box i} as [i][j]."""
    table = []
    for gt in gt_boxes:
        ious = [iou(gt, box) for box in boxes]
        top = max(max(ious), threshold + 1e-12)
        table.append([min(max((v - threshold) / (top - threshold), 0), 1) for v in ious])
    return table


def free_anchor_loss_loop(
    cls_logits: list[list[list[float]]],
    box_deltas: list[list[list[float]]],
    anchors: list[Box],
    gt_boxes: list[list[Box]],
    gt_classes: list[list[int]],
    bag_size: int = 50,
    iou_threshold: float = 0.6,
    alpha: float = 0.5,
    gamma: float = 2.0,
    reg_weight: float = 0.75,
    beta: float = 0.11,
    last_write: bool = False,
) -> dict[str, float]:
    """The losses of a batch. Boxes must have an area."""
    positive = negative = 0.0
    count = sum(len(boxes) for boxes in gt_boxes)
    images = zip(cls_logits, box_deltas, gt_boxes, gt_classes, strict=True)
    for logits, deltas, boxes, classes in images:
        probability = [[1 / (1 + math.exp(-z)) for z in row] for row in logits]
        for box, label in zip(boxes, classes, strict=True):
            order = sorted(range(len(anchors)), key=lambda j, box=box: -iou(box, anchors[j]))
            x = []
            for j in order[:bag_size]:
                wanted = encode(anchors[j], box)
                error = sum(smooth_l1(d - w, beta) for d, w in zip(deltas[j], wanted, strict=True))
                x.append(probability[j][label] * math.exp(-reg_weight * error))
            positive -= math.log(mean_max(x))
        predicted = [decode(anchors[j], deltas[j]) for j in range(len(anchors))]
        found = found_loop(predicted, boxes, iou_threshold)
        for j, row in enumerate(probability):
            for c, p in enumerate(row):
                values = [found[i][j] for i, label in enumerate(classes) if label == c]
                if last_write:
                    values = [value for value in values if value > 0][-1:]
                x_jc = p * (1 - max(values, default=0.0))
                negative -= x_jc**gamma * math.log(1 - x_jc)
    return {
        "loss_pos": alpha * positive / max(1, count),
        "loss_neg": (1 - alpha) * negative / max(1, bag_size * count),
    }
