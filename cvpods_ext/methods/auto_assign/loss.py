"""Losses of AutoAssign (arXiv:2007.03496), memory-bounded and in the log domain.

definition.py is the same function as the paper writes it, and explains the letters. Scores are kept
as logarithms here, so that none underflows, and only the P pairs of a box and a location inside it
are ever computed (kernels/pairs.py). Outputs in half precision are computed in float32.
FeatureAlign builds on the functions below.

Letters: N images, R locations of all levels, M boxes, K classes, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cvpods.modeling.losses import iou_loss
from cvpods.structures.geometry import boxes_around, centers, distances_to_sides
from cvpods_ext.kernels.negatives import negative_focal_loss
from cvpods_ext.kernels.pairs import (
    PAIRS_AT_ONCE,
    Pairs,
    best_iou,
    in_chunks,
    inside_pairs,
    min_max_table,
)
from cvpods_ext.kernels.targets import check_location_inputs

# 1 / tau of Eq. 9: how strongly the weights of a box prefer its better locations.
SHARPNESS = 3.0
# Loss of a box without a location inside: -log 0, as far as torch's cross entropy goes.
LOSS_WITHOUT_LOCATION = 100.0


def auto_assign_loss(
    cls_logits: Tensor,
    obj_logits: Tensor,
    ltrb: Tensor,
    points: Tensor,
    strides: Tensor,
    mu: Tensor,
    sigma: Tensor,
    gt_boxes: Sequence[Tensor],
    gt_classes: Sequence[Tensor],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reg_weight: float = 5.0,
    average: Callable[[Tensor], Tensor] = lambda counts: counts,
    pairs_at_once: int = PAIRS_AT_ONCE,
    elements_at_once: int | None = None,
) -> dict[str, Tensor]:
    """Return the three losses of a batch; arguments and results as in definition.py.

    pairs_at_once and elements_at_once bound the memory of lists of pairs and of tables. Raises
    ValueError for shapes that do not go together, no image, and classes that are not int64.

    Differs from the published code: computed from logits, in the log domain, so that the positive
    loss of a box with locations has no ceiling of 100, and a gradient at any logit; where boxes of
    one class share a location, the last counts for A on every device; an image whose boxes hold no
    location adds nothing to loss_norm (published: 1e12 n_gt, without gradient).
    """
    cls_logits, obj_logits, ltrb = check_location_inputs(
        cls_logits, obj_logits, ltrb, points, strides, (), mu, sigma, gt_boxes, gt_classes
    )
    images = [
        inside_pairs(points, boxes.to(ltrb.dtype), classes, elements_at_once)
        for boxes, classes in zip(gt_boxes, gt_classes, strict=True)
    ]
    outputs = cls_logits, obj_logits, ltrb, points
    positive, sum_prior, prior_per_image = in_chunks(
        box_sums, images, *outputs, strides, mu, sigma, reg_weight, at_once=pairs_at_once
    )
    negative = negative_loss(*outputs, images, gamma, pairs_at_once, elements_at_once)
    num_gt = prior_per_image.new_tensor([len(boxes) for boxes in gt_boxes])
    num_positive, num_negative = average(torch.stack([num_gt.sum(), sum_prior])).clamp(min=1)
    return {
        "loss_pos": alpha * positive / num_positive,
        "loss_neg": (1 - alpha) * negative / num_negative,
        "loss_norm": (1 - alpha) * norm_loss(num_gt, prior_per_image),
    }


def box_sums(
    pairs: Pairs,
    cls_logits: Tensor,
    obj_logits: Tensor,
    ltrb: Tensor,
    points: Tensor,
    strides: Tensor,
    mu: Tensor,
    sigma: Tensor,
    reg_weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums over the boxes of `pairs`: -log P+ (), G without gradient (), G per image (N,).

    Arguments are those of auto_assign_loss.
    """
    log_p_cls = log_class_confidence(pairs, cls_logits, obj_logits)
    log_p = log_p_cls - reg_weight * location_loss(pairs, ltrb, points)
    mu, sigma = (values.index_select(0, pairs.class_of_box) for values in (mu, sigma))
    log_g = log_center_prior(pairs, points, strides, mu, sigma)
    positive = positive_loss(pairs, log_p, log_g).sum()
    return positive, log_g.detach().exp().sum(), pairs.sum_per_image(log_g.exp())


def log_class_confidence(pairs: Pairs, cls_logits: Tensor, obj_logits: Tensor) -> Tensor:
    """Return log P(cls) (P,), the class score times the implicit objectness (Eq. 3)."""
    cls_logits = pairs.per_class_output(cls_logits)
    return F.logsigmoid(cls_logits) + F.logsigmoid(pairs.per_output(obj_logits)[:, 0])


def location_loss(pairs: Pairs, ltrb: Tensor, points: Tensor) -> Tensor:
    """Return L_loc (P,), the GIoU loss of the predicted box (Eq. 4)."""
    wanted = distances_to_sides(pairs.per_location(points), pairs.per_box(pairs.boxes))
    return iou_loss(pairs.per_output(ltrb), wanted, box_mode="ltrb", loss_type="giou")


def log_center_prior(
    pairs: Pairs, points: Tensor, strides: Tensor, mu: Tensor, sigma: Tensor
) -> Tensor:
    """Return log G (P,) <= 0 of the Gaussian center prior, summed over x and y (Eq. 2).

    d is the offset of the location from the centre of the box, in strides of its level.

    Args:
        points: (R, 2), pixels; strides: (R,), pixels.
        mu, sigma: (P, 2) of each pair, in strides; sigma^2 is kept above 1e-12.
    """
    mu, sigma = mu.to(points.dtype), sigma.to(points.dtype)
    d = pairs.per_location(points) - centers(pairs.per_box(pairs.boxes))
    d = d / pairs.per_location(strides)[:, None]
    return -((d - mu).square() / (2 * sigma.square().clamp(min=1e-12))).sum(dim=1)


def positive_loss(pairs: Pairs, log_p: Tensor, log_g: Tensor) -> Tensor:
    """Return -log sum_j w+_ij P_ij (M,), the positive term of Eq. 12.

    A box without a location costs LOSS_WITHOUT_LOCATION.

    Args:
        log_p: (P,) <= 0; log_g: (P,) of log_center_prior.
    """
    bag = pairs.logsumexp(log_positive_weights(pairs, log_p, log_g) + log_p)
    num_locations = pairs.sum(torch.ones_like(log_p))
    return torch.where(num_locations > 0, -bag, LOSS_WITHOUT_LOCATION)


def log_positive_weights(pairs: Pairs, log_p: Tensor, log_g: Tensor) -> Tensor:
    """Return log w+ (P,), w+ = C(P) G / sum_j C(P) G, C(P) = exp(P / tau) (Eq. 9, 10).

    The sum is kept above 1e-12.
    """
    log_cg = SHARPNESS * log_p.exp() + log_g
    return log_cg - pairs.per_box(pairs.logsumexp(log_cg).clamp(min=math.log(1e-12)))


def negative_loss(
    cls_logits: Tensor,
    obj_logits: Tensor,
    ltrb: Tensor,
    points: Tensor,
    images: Sequence[Pairs],
    gamma: float,
    pairs_at_once: int = PAIRS_AT_ONCE,
    elements_at_once: int | None = None,
) -> Tensor:
    """Return sum_{j,c} FL(P(cls)_jc w-_jc) over all images, a scalar (Eq. 12).

    Args:
        images: the pairs of each image. The others are those of auto_assign_loss.
    """
    bounds = pairs_at_once, elements_at_once
    predicted = boxes_around(points, ltrb.detach())  # (N, R, 4)
    tables = [
        found_table(boxes, pairs, cls_logits.shape[2], *bounds) if len(pairs.boxes) else None
        for boxes, pairs in zip(predicted, images, strict=True)
    ]
    return negative_focal_loss(
        cls_logits, obj_logits, tables, gamma, elements_at_once=elements_at_once
    )


@torch.no_grad()
def found_table(
    predicted: Tensor,
    pairs: Pairs,
    num_classes: int,
    pairs_at_once: int = PAIRS_AT_ONCE,
    elements_at_once: int | None = None,
) -> Tensor:
    """Return 1 - w- (R, K) of one image, in [0, 1] (Eq. 11).

    Inside box i it is f(1 / (1 - iou_j)) in the column of the box's class, f scaling to [0, 1] over
    the locations of the box; elsewhere 0. iou_j is the largest IoU of the predicted box with any
    box of the image. Where boxes of one class share a location, the last box counts.

    Args:
        predicted: (R, 4) xyxy, pixels.
        pairs_at_once, elements_at_once: see auto_assign_loss.
    """
    iou = best_iou(predicted, pairs.boxes, pairs.location, elements_at_once)
    return min_max_table(pairs, 1 / (1 - iou).clamp(min=1e-12), num_classes, pairs_at_once)


def norm_loss(num_gt: Tensor, prior_per_image: Tensor) -> Tensor:
    """Return the mean over images of n_gt / sum_ij G_ij; see definition.py.

    Args:
        num_gt: (N,) boxes; prior_per_image: (N,) sum of G. An image where that is 0 adds nothing:
            no box has a location inside, or G underflows at all of them.
    """
    ratio = num_gt / prior_per_image.clamp(min=1e-12)
    return torch.where(prior_per_image > 0, ratio, 0.0).mean()
