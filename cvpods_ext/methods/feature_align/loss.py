"""Losses of FeatureAlign (TCSVT 33(8), 2023; CAC 2022), memory-bounded and in the log domain.

definition.py is the same function as the paper writes it, and explains the letters. FeatureAlign
keeps AutoAssign's confidences, its center prior, the form of its positive loss and its whole
negative loss; they are imported from there. FF and MDQ are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cvpods_ext.kernels.pairs import PAIRS_AT_ONCE, Pairs, in_chunks, inside_pairs
from cvpods_ext.kernels.targets import check_location_inputs
from cvpods_ext.methods.auto_assign.loss import (
    location_loss,
    log_center_prior,
    log_class_confidence,
    negative_loss,
    norm_loss,
    positive_loss,
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
    pairs_at_once: int = PAIRS_AT_ONCE,
    elements_at_once: int | None = None,
) -> dict[str, Tensor]:
    """Return the three losses of a batch; arguments and results as in definition.py.

    pairs_at_once and elements_at_once bound the memory of lists of pairs and of tables. Raises
    ValueError for shapes that do not go together, no image, and classes that are not int64.

    Differs from the published code: as auto_assign_loss does; an image whose boxes hold no location
    adds nothing to loss_quality (as printed: 1e6 n_gt, without gradient).
    """
    shape = (len(level_sizes),)
    cls_logits, obj_logits, ltrb = check_location_inputs(
        cls_logits, obj_logits, ltrb, points, strides, shape, mu, sigma, gt_boxes, gt_classes
    )
    if sum(level_sizes) != len(points):
        raise ValueError(f"level_sizes {list(level_sizes)} must sum to the {len(points)} points.")
    sizes = torch.tensor(level_sizes, device=points.device)
    levels = torch.arange(len(sizes), device=points.device)
    levels = levels.repeat_interleave(sizes, output_size=len(points))
    images = [
        inside_pairs(points, boxes.to(ltrb.dtype), classes, elements_at_once)
        for boxes, classes in zip(gt_boxes, gt_classes, strict=True)
    ]
    outputs = cls_logits, obj_logits, ltrb, points
    settings = strides, levels, mu, sigma, reg_weight, feature_filter, quality_weight
    positive, sum_prior, spread = in_chunks(
        box_sums, images, *outputs, *settings, at_once=pairs_at_once
    )
    negative = negative_loss(*outputs, images, gamma, pairs_at_once, elements_at_once)
    num_gt = spread.new_tensor([len(boxes) for boxes in gt_boxes])
    num_positive, num_negative = average(torch.stack([num_gt.sum(), sum_prior])).clamp(min=1)
    regulariser = quality_loss if quality_weight else norm_loss
    return {
        "loss_pos": alpha * positive / num_positive,
        "loss_neg": (1 - alpha) * negative / num_negative,
        "loss_quality": (1 - alpha) * regulariser(num_gt, spread),
    }


def box_sums(
    pairs: Pairs,
    cls_logits: Tensor,
    obj_logits: Tensor,
    ltrb: Tensor,
    points: Tensor,
    strides: Tensor,
    levels: Tensor,
    mu: Tensor,
    sigma: Tensor,
    reg_weight: float,
    feature_filter: bool,
    quality_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums over the boxes of `pairs`: positive loss (), G without gradient (), spread (N,).

    The spread of an image is the sum that its regulariser divides by.

    Args:
        levels: (R,) int64 in [0, L). The others are those of feature_align_loss.
    """
    log_pc = log_class_confidence(pairs, cls_logits, obj_logits)
    log_pb = -reg_weight * location_loss(pairs, ltrb, points)
    log_sa = log_pc + log_pb
    mu, sigma = (pairs.per_level_and_class(values, levels) for values in (mu, sigma))
    log_g = log_center_prior(pairs, points, strides, mu, sigma)

    log_x = log_filtered_score(log_pc, log_pb) if feature_filter else log_sa
    positive = positive_loss(pairs, log_x, log_g).sum()
    spread = quality(pairs, log_sa, log_g) if quality_weight else log_g.exp()
    return positive, log_g.detach().exp().sum(), pairs.sum_per_image(spread)


def log_filtered_score(log_pc: Tensor, log_pb: Tensor) -> Tensor:
    """Return log x (P,), x = Sa / Sm: FF, the feature filter."""
    return log_pc + log_pb - misalignment_score(log_pc.exp(), log_pb.exp()).log()


def misalignment_score(pc: Tensor, pb: Tensor) -> Tensor:
    """Return Sm = 2 / (2 - (Pc - Pb)^2), of the same shape, from 1 (aligned) to 2."""
    return 2 / (2 - (pc - pb).square())


def quality(pairs: Pairs, log_sa: Tensor, log_g: Tensor) -> Tensor:
    """Return sqrt(max(q G, 1e-12)) (P,); q is exp(Sa) from 0 to 1 over S_i, without gradient."""
    q = pairs.min_max(log_sa.detach().exp().exp())
    return (0.5 * (q.log() + log_g)).clamp(min=0.5 * math.log(1e-12)).exp()


def quality_loss(num_gt: Tensor, quality_per_image: Tensor) -> Tensor:
    """Return L_q, the mean over images of n_gt / (sum_ij sqrt(q_ij G_ij) + 1e-6).

    Args:
        num_gt: (N,) boxes; quality_per_image: (N,). An image where that is 0 adds nothing: no box
            has a location inside.
    """
    ratio = num_gt / (quality_per_image + 1e-6)
    return torch.where(quality_per_image > 0, ratio, 0.0).mean()
