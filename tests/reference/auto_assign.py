"""AutoAssign in plain Python numbers, one box and one location at a time (arXiv:2007.03496)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.reference.boxes import Box, giou, iou, is_inside

Point = tuple[float, float]


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def center_prior(
    point: Point, stride: float, box: Box, mu: Sequence[float], sigma: Sequence[float]
) -> float:
    dx = (point[0] - (box[0] + box[2]) / 2) / stride
    dy = (point[1] - (box[1] + box[3]) / 2) / stride
    along_x = math.exp(-((dx - mu[0]) ** 2) / (2 * sigma[0] ** 2))
    return along_x * math.exp(-((dy - mu[1]) ** 2) / (2 * sigma[1] ** 2))


def bag_loop(scores: Sequence[float], priors: Sequence[float]) -> float:
    """-log sum_j w_j P_j of one box, at most 100."""
    weights = [math.exp(3 * p) * g for p, g in zip(scores, priors, strict=True)]
    total = max(sum(weights), 1e-12)
    bag = sum(w / total * p for w, p in zip(weights, scores, strict=True))
    return min(-math.log(bag), 100.0) if bag > 0 else 100.0


def min_max(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(v - low + 1e-12) / (high - low + 1e-12) for v in values]


def found_loop(
    predicted: Sequence[Box],
    points: Sequence[Point],
    gt_boxes: Sequence[Box],
    gt_classes: Sequence[int],
    num_classes: int,
) -> list[list[float]]:
    """A as [j][c]; a later box overwrites an earlier one."""
    table = [[0.0] * num_classes for _ in points]
    for box, label in zip(gt_boxes, gt_classes, strict=True):
        members = [j for j, point in enumerate(points) if is_inside(point, box)]
        if not members:
            continue
        best = [max(iou(gt, predicted[j]) for gt in gt_boxes) for j in members]
        found = min_max([1 / max(1 - value, 1e-12) for value in best])
        for j, value in zip(members, found, strict=True):
            table[j][label] = value
    return table


def auto_assign_loss_loop(
    cls_logits: list[list[list[float]]],
    obj_logits: list[list[list[float]]],
    ltrb: list[list[list[float]]],
    points: list[Point],
    strides: list[float],
    mu: list[list[float]],
    sigma: list[list[float]],
    gt_boxes: list[list[Box]],
    gt_classes: list[list[int]],
    alpha: float = 0.25,
    gamma: float = 2.0,
    reg_weight: float = 5.0,
) -> dict[str, float]:
    """The losses of a batch. No probability may be exactly 1."""
    positive = negative = norm = total_prior = 0.0
    images = zip(cls_logits, obj_logits, ltrb, gt_boxes, gt_classes, strict=True)
    for logits, objectness, distances, boxes, classes in images:
        probability = [
            [sigmoid(z) * sigmoid(obj[0]) for z in row]
            for row, obj in zip(logits, objectness, strict=True)
        ]
        predicted = [
            (x - left, y - top, x + right, y + bottom)
            for (x, y), (left, top, right, bottom) in zip(points, distances, strict=True)
        ]
        prior_of_image = 0.0
        for box, label in zip(boxes, classes, strict=True):
            scores, priors = [], []
            for j, point in enumerate(points):
                if is_inside(point, box):
                    box_score = math.exp(-reg_weight * (1 - giou(predicted[j], box)))
                    scores.append(probability[j][label] * box_score)
                    priors.append(
                        center_prior(point, strides[j], box, mu[label], sigma[label]),
                    )
            positive += bag_loop(scores, priors)
            prior_of_image += sum(priors)
        total_prior += prior_of_image
        if prior_of_image > 0:  # published: n_gt / 1e-12 without a location
            norm += len(boxes) / max(prior_of_image, 1e-12)
        found = found_loop(predicted, points, boxes, classes, len(mu))
        for j, row in enumerate(probability):
            for c, p in enumerate(row):
                x = p * (1 - found[j][c])
                negative -= x**gamma * math.log(1 - x)
    count = sum(len(boxes) for boxes in gt_boxes)
    return {
        "loss_pos": alpha * positive / max(1, count),
        "loss_neg": (1 - alpha) * negative / max(1, total_prior),
        "loss_norm": (1 - alpha) * norm / len(gt_boxes),
    }
