"""FeatureAlign's loss as the paper defines it (TCSVT 33(8), 2023; CAC 2022).

The paper's own equations could not be consulted; the text follows its pipeline figure and what is
public of its code, so that it names the figure's boxes instead of equation numbers. One image at a
time, dense tables (M, R), probabilities instead of logarithms. loss.py computes the same in bounded
memory. Try an idea here first; the tests hold the two together.

Letters: boxes i (M), locations j (R), classes c (K). S_i: the locations, of all levels, inside i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cvpods.structures.geometry import (
    boxes_around,
    centers,
    distances_to_sides,
    generalized_iou,
    iou,
)


def feature_align_loss(
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
    average: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> dict[str, Tensor]:
    """Return the three losses of a batch.

    Args:
        cls_logits, obj_logits, ltrb, points, strides, gt_boxes, gt_classes, alpha, gamma,
            reg_weight, average: see methods/auto_assign/definition.py.
        level_sizes: locations of each of the L levels; they sum to R.
        mu, sigma: (L, K, 2) of the quality distributions, in strides.
        feature_filter: False: x_ij = Sa_ij.
        quality_weight: False: loss_quality is AutoAssign's loss_norm. Without both, and with the
            same mu and sigma on every level, this is AutoAssign's loss.

    Returns:
        {"loss_pos": (), "loss_neg": (), "loss_quality": ()}. loss_quality moves mu and sigma alone.
    """
    level = torch.arange(len(level_sizes)).repeat_interleave(torch.tensor(level_sizes))
    positive = negative = quality = sum_g = cls_logits.new_zeros(())
    for logits, obj, distances, boxes, classes in zip(
        cls_logits, obj_logits, ltrb, gt_boxes, gt_classes, strict=True
    ):
        predicted = boxes_around(points, distances)  # (R, 4)
        in_s = distances_to_sides(points, boxes[:, None]).amin(dim=2) > 0  # (M, R): j in S_i

        # Confidence score, box score, joint score and misalignment score.
        p_cls = logits.sigmoid() * obj.sigmoid()  # (R, K)
        pc = p_cls[:, classes].t()  # (M, R)
        pb = torch.exp(-reg_weight * (1 - generalized_iou(predicted, boxes[:, None])))
        sa = pc * pb
        sm = 2 / (2 - (pc - pb).square()) if feature_filter else torch.ones_like(sa)
        x = sa / sm  # FF, the feature filter

        # MDQ, the quality distributions of each level and class.
        d = (points - centers(boxes)[:, None]) / strides[:, None]
        mu_ij, sigma_ij = (v[level, classes[:, None]] for v in (mu, sigma))  # (M, R, 2)
        g = torch.exp(-((d - mu_ij).square() / (2 * sigma_ij.square())).sum(dim=2)) * in_s

        # Positive weighting: AutoAssign's, of the filtered score.
        w = torch.exp(3 * x) * g
        p_pos = (w * x).sum(dim=1) / w.sum(dim=1).clamp(min=1e-12)
        has_location = in_s.any(dim=1)
        positive = positive - torch.where(has_location, p_pos, 1).log().sum()
        positive = positive + 100 * (~has_location).sum()  # -log 0

        # Quality weighting and negative weighting, both without gradient into the network.
        q, w_neg = torch.zeros_like(g), torch.ones_like(p_cls)
        best = iou(predicted, boxes[:, None]).amax(dim=0).detach() if len(boxes) else torch.zeros(0)
        for i in torch.nonzero(has_location).flatten():
            q[i, in_s[i]] = min_max(sa[i, in_s[i]].detach().exp())
            w_neg[in_s[i], classes[i]] = 1 - min_max(1 / (1 - best[in_s[i]]).clamp(min=1e-12))
        spread = (q * g).clamp(min=1e-12).sqrt() * in_s if quality_weight else g
        x = p_cls * w_neg
        negative = negative - (x**gamma * torch.log(1 - x)).sum()

        # L_q, the mean over images.
        rest = spread.sum() + 1e-6 if quality_weight else spread.sum().clamp(min=1e-12)
        quality = quality + torch.where(spread.sum() > 0, len(boxes) / rest, 0) / len(gt_boxes)
        sum_g = sum_g + g.detach().sum()
    num_boxes = sum_g.new_tensor(float(sum(len(boxes) for boxes in gt_boxes)))
    num_positive, num_negative = average(torch.stack([num_boxes, sum_g])).clamp(min=1)
    return {
        "loss_pos": alpha * positive / num_positive,
        "loss_neg": (1 - alpha) * negative / num_negative,
        "loss_quality": (1 - alpha) * quality,
    }


def min_max(v: Tensor) -> Tensor:
    """Return values (P,) scaled to [0, 1]; 1 if all are equal."""
    return (v - v.min() + 1e-12) / (v.max() - v.min() + 1e-12)
