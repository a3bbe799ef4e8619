"""FeatureAlign's losses (TCSVT 33(8), 2023), one box and one location at a time, as printed.

Scores are scalars that autograd follows; geometry and all that is detached are plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tests.reference.auto_assign import min_max
from tests.reference.boxes import Box, iou, is_inside


def misalignment(pc: Tensor, pb: Tensor) -> Tensor:
    return 2 / (2 - (pc - pb) ** 2)


def giou(a: Sequence[Tensor], b: Box) -> Tensor:
    """Of boxes that have an area."""
    b = [torch.tensor(side, dtype=a[0].dtype) for side in b]
    larger, smaller = torch.maximum, torch.minimum
    width = (smaller(a[2], b[2]) - larger(a[0], b[0])).clamp(min=0)
    height = (smaller(a[3], b[3]) - larger(a[1], b[1])).clamp(min=0)
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    hull_width = larger(a[2], b[2]) - smaller(a[0], b[0])
    hull_height = larger(a[3], b[3]) - smaller(a[1], b[1])
    hull = hull_width * hull_height
    return shared / union - (hull - union) / hull


def prior(point: Sequence[float], stride: float, box: Box, mu: Tensor, sigma: Tensor) -> Tensor:
    """G of mu (2,) and sigma (2,)."""
    product = torch.ones((), dtype=mu.dtype)
    for axis in range(2):
        d = (point[axis] - (box[axis] + box[axis + 2]) / 2) / stride
        product = product * torch.exp(-((d - mu[axis]) ** 2) / (2 * sigma[axis] ** 2))
    return product


def corners(point: Sequence[float], ltrb: Tensor) -> list[Tensor]:
    x, y = point
    return [x - ltrb[0], y - ltrb[1], x + ltrb[2], y + ltrb[3]]


def feature_align_loss_loop(
    cls_logits: Tensor,
    obj_logits: Tensor,
    ltrb: Tensor,
    points: Tensor,
    strides: Tensor,
    level_sizes: Sequence[int],
    mu: Tensor,
    sigma: Tensor,
    gt_boxes: Sequence[Tensor],
    gt_classes: Sequence[Tensor],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reg_weight: float = 5.0,
    feature_filter: bool = True,
    quality_weight: bool = True,
) -> dict[str, Tensor]:
    """Of N images; mu and sigma (L, K, 2). Without quality_weight: AutoAssign's loss_norm."""
    num_images, num_points, num_classes = cls_logits.shape
    level_of = [level for level, size in enumerate(level_sizes) for _ in range(size)]
    places, steps = points.tolist(), strides.tolist()
    positive = negative = quality = torch.zeros((), dtype=cls_logits.dtype)
    num_gt, total_prior = 0, 0.0
    for n in range(num_images):
        boxes, classes = gt_boxes[n].tolist(), gt_classes[n].tolist()
        predicted = [corners(places[j], ltrb[n, j]) for j in range(num_points)]
        spread = torch.zeros((), dtype=cls_logits.dtype)
        found: dict[tuple[int, int], float] = {}
        for box, c in zip(boxes, classes, strict=True):
            bag = [j for j in range(num_points) if is_inside(places[j], box)]
            if not bag:
                positive = positive + 100.0
                continue
            joint, score, gauss = [], [], []
            for j in bag:
                pc = torch.sigmoid(cls_logits[n, j, c]) * torch.sigmoid(obj_logits[n, j, 0])
                pb = torch.exp(-reg_weight * (1 - giou(predicted[j], box)))
                joint.append(pc * pb)
                score.append(pc * pb / misalignment(pc, pb) if feature_filter else pc * pb)
                row = mu[level_of[j], c], sigma[level_of[j], c]
                gauss.append(prior(places[j], steps[j], box, *row))
            weight = [torch.exp(3 * x) * g for x, g in zip(score, gauss, strict=True)]
            total = sum(weight).clamp(min=1e-12)
            positive = (
                positive - sum(w / total * x for w, x in zip(weight, score, strict=True)).log()
            )

            q = min_max([math.exp(s.item()) for s in joint])
            for q_j, g in zip(q, gauss, strict=True):
                total_prior += g.item()
                spread = spread + ((q_j * g).clamp(min=1e-12).sqrt() if quality_weight else g)

            best = [
                max(iou([v.item() for v in predicted[j]], other) for other in boxes) for j in bag
            ]
            f = min_max([1 / max(1 - value, 1e-12) for value in best])
            found.update({(j, c): value for j, value in zip(bag, f, strict=True)})
        num_gt += len(boxes)
        if spread > 0:  # some box has a location inside
            rest = spread + 1e-6 if quality_weight else spread.clamp(min=1e-12)
            quality = quality + len(boxes) / rest / num_images
        for j in range(num_points):
            for c in range(num_classes):
                x = torch.sigmoid(cls_logits[n, j, c]) * torch.sigmoid(obj_logits[n, j, 0])
                x = x * (1 - found.get((j, c), 0.0))
                negative = negative - x**gamma * torch.log(1 - x)
    return {
        "loss_pos": alpha * positive / max(1, num_gt),
        "loss_neg": (1 - alpha) * negative / max(1.0, total_prior),
        "loss_quality": (1 - alpha) * quality,
    }
