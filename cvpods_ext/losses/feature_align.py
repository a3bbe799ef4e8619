"""FeatureAlign's loss (TCSVT 33(8), 2023; CAC 2022): AutoAssign's, with FF and MDQ.

For boxes i, locations j, classes c; S_i the locations of all levels strictly inside box i:

    loss_pos     = alpha / max(1, N_gt)  sum_i -log sum_{j in S_i} w_ij x_ij
    loss_neg     = as AutoAssign's (losses/auto_assign.py), which knows neither filter nor quality
    loss_quality = (1 - alpha)  mean over images  n_gt / (sum_{i, j in S_i} sqrt(q_ij G_ij) + 1e-6)

    Pc_ij = sigmoid(cls_{j c_i}) sigmoid(obj_j)                 confidence score
    Pb_ij = exp(-reg_weight GIoULoss(box_j, box_i))             box score
    Sa_ij = Pc_ij Pb_ij                                         joint score
    Sm_ij = 2 / (2 - (Pc_ij - Pb_ij)^2)                         misalignment score, 1 (aligned) to 2
    x_ij  = Sa_ij / Sm_ij                                       FF: the feature filter
    w_ij  = exp(3 x_ij) G_ij / sum_{j in S_i} of the same
    q_ij  = exp(Sa_ij) from 0 to 1 over S_i, without gradient   quality weighting
    G_ij  = exp(-(d_ij - mu)^2 / (2 sigma^2))                   MDQ: mu, sigma per level and class

loss_quality moves mu and sigma alone. q G is kept above 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cvpods_ext.assigners.segments import segment_min_max
from cvpods_ext.losses.auto_assign import bag_losses, center_prior
from cvpods_ext.losses.location_bags import (
    Locations,
    PairTerms,
    Predictions,
    Prior,
    bag_sums,
    per_box,
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
    """The three losses of a batch, as at the top of this file.

    Args:
        cls_logits, obj_logits, ltrb, points, strides, gt_boxes, gt_classes, alpha, gamma,
            reg_weight, average: see auto_assign_loss.
        level_sizes: locations of each of the L levels.
        mu, sigma: (L, K, 2) of the quality distributions, in strides.
        feature_filter: False: x_ij = Sa_ij.
        quality_weight: False: loss_quality is AutoAssign's loss_norm. Without both, and with the
            same mu and sigma on every level, this is AutoAssign's loss.

    Returns:
        {"loss_pos": (), "loss_neg": (), "loss_quality": ()}.

    Raises:
        ValueError: shapes that do not go together, no image, or classes that are not int64.

    Differs from the published code: as auto_assign_loss does; an image whose boxes hold no location
    adds nothing to loss_quality (as printed: 1e6 n_gt, without gradient).
    """
    sizes = torch.tensor(level_sizes, device=points.device)
    if sum(level_sizes) != len(points) or len(level_sizes) != len(mu):
        raise ValueError(
            f"level_sizes {list(level_sizes)} must sum to {len(points)} points, and mu has "
            f"{len(mu)} levels."
        )
    levels = torch.arange(len(sizes), device=points.device)
    sums = bag_sums(
        Predictions(cls_logits, obj_logits, ltrb),
        Locations(points, strides, levels.repeat_interleave(sizes, output_size=len(points))),
        Prior(mu, sigma),
        gt_boxes,
        gt_classes,
        gamma=gamma,
        reg_weight=reg_weight,
        log_score=filtered_score if feature_filter else lambda terms: terms.log_joint,
        spread=quality if quality_weight else center_prior,
    )
    spread = sums.spread + 1e-6 if quality_weight else sums.spread.clamp(min=1e-12)
    loss_quality = (1 - alpha) * per_box(sums, spread)
    return {**bag_losses(sums, alpha, average), "loss_quality": loss_quality}


def misalignment_score(confidence: Tensor, box_score: Tensor) -> Tensor:
    """Sm = 2 / (2 - (Pc - Pb)^2), of the same shape, in [1, 2]."""
    return 2 / (2 - (confidence - box_score).square())


def filtered_score(terms: PairTerms) -> Tensor:
    """log x (P,), x = Sa / Sm."""
    misalignment = misalignment_score(terms.log_confidence.exp(), terms.log_box.exp())
    return terms.log_joint - misalignment.log()


def quality(terms: PairTerms) -> Tensor:
    """sqrt(max(q G, 1e-12)) (P,)."""
    q = segment_min_max(terms.log_joint.detach().exp().exp(), terms.box, terms.num_boxes)
    return (0.5 * (q.log() + terms.log_prior)).clamp(min=0.5 * math.log(1e-12)).exp()
