"""Losses of AutoAssign (arXiv:2007.03496), memory-bounded and in the log domain.

definition.py is the same function as the paper writes it, and explains the letters. Scores are kept
as logarithms here, so that none underflows, and only the P pairs of a box and a location inside it
are ever computed (kernels/pairs.py). FeatureAlign builds on the functions below.

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
from cvpods.utils.slices import slices
from cvpods_ext.kernels.negatives import negative_focal_loss
from cvpods_ext.kernels.pairs import Pairs, chunks, in_chunks, inside_pairs, join
from cvpods_ext.kernels.slices import as_columns, as_rows, slice_iou
from cvpods_ext.kernels.targets import check_outputs, check_targets, common_dtype

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
) -> dict[str, Tensor]:
    """Return the three losses of a batch; arguments, results and errors as in definition.py.

    Differs from the published code: computed from logits, in the log domain, so that the positive
    loss of a box with locations has no ceiling of 100, and a gradient at any logit; where boxes of
    one class share a location, the last counts for A on every device; an image whose boxes hold no
    location adds nothing to loss_norm (published: 1e12 n_gt, without gradient).
    """
    n, r, k = cls_logits.shape if cls_logits.dim() == 3 else (0, 0, 0)
    check_outputs(
        cls_logits,
        obj_logits=(obj_logits, (n, r, 1)),
        ltrb=(ltrb, (n, r, 4)),
        points=(points, (r, 2)),
        strides=(strides, (r,)),
        mu=(mu, (k, 2)),
        sigma=(sigma, (k, 2)),
    )
    check_targets(n, gt_boxes, gt_classes)
    dtype = common_dtype(cls_logits, obj_logits, ltrb)
    cls_logits, obj_logits, ltrb = (t.to(dtype) for t in (cls_logits, obj_logits, ltrb))
    images = [
        inside_pairs(points, boxes.to(dtype), classes)
        for boxes, classes in zip(gt_boxes, gt_classes, strict=True)
    ]
    positive, sum_prior, prior_per_image = in_chunks(
        box_sums, join(images), cls_logits, obj_logits, ltrb, points, strides, mu, sigma, reg_weight
    )
    negative = negative_loss(cls_logits, obj_logits, ltrb, points, images, gamma)
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
    classes = pairs.per_box(pairs.classes)
    log_g = log_center_prior(
        pairs, points, strides, mu.index_select(0, classes), sigma.index_select(0, classes)
    )
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
) -> Tensor:
    """Return sum_{j,c} FL(P(cls)_jc w-_jc) over all images, a scalar (Eq. 12).

    Args:
        images: the pairs of each image.
    """
    num_classes = cls_logits.shape[-1]
    tables = [
        found_table(boxes_around(points, ltrb[n].detach()), pairs, num_classes)
        if len(pairs.boxes)
        else None
        for n, pairs in enumerate(images)
    ]
    return negative_focal_loss(cls_logits, obj_logits, tables, gamma)


@torch.no_grad()
def found_table(
    predicted: Tensor, pairs: Pairs, num_classes: int, *, at_once: int | None = None
) -> Tensor:
    """Return 1 - w- (R, K) of one image, in [0, 1] (Eq. 11).

    Inside box i it is f(1 / (1 - iou_j)) in the column of the box's class, f scaling to [0, 1] over
    the locations of the box; elsewhere 0. Where boxes of one class share a location, the last box
    counts.

    Args:
        predicted: (R, 4) xyxy, pixels.
        at_once: pairs of a chunk.
    """
    iou = best_iou(predicted, pairs.boxes, pairs.location)
    size = len(predicted) * num_classes
    last = torch.zeros(size, dtype=torch.int64, device=predicted.device)
    table = predicted.new_zeros(size)
    first = 0
    for part in chunks(pairs, *([] if at_once is None else [at_once])):
        f = part.min_max(1 / (1 - iou[part.location]).clamp(min=1e-12))
        entry = part.location * num_classes + part.per_box(part.classes)
        order = part.box + (first + 1)
        is_last = last.scatter_reduce_(0, entry, order, "amax")[entry] == order
        table[entry[is_last]] = f[is_last]
        first += len(part.boxes)
    return table.view(-1, num_classes)


def best_iou(
    predicted: Tensor, gt_boxes: Tensor, location: Tensor, elements_at_once: int | None = None
) -> Tensor:
    """Return iou_j (R,), the largest IoU of each predicted box (R, 4) with any box of the image.

    Args:
        location: (P,) int64, the locations that it is computed for; others get 0. May repeat.
        elements_at_once: size of the slices.
    """
    is_needed = torch.zeros(len(predicted), dtype=torch.bool, device=predicted.device)
    is_needed[location] = True
    chosen = is_needed.nonzero().flatten()
    columns, rows = as_columns(predicted[chosen]), as_rows(gt_boxes)
    best = predicted.new_zeros(len(predicted))
    for part in slices(len(chosen), len(gt_boxes), predicted.device, elements=elements_at_once):
        best[chosen[part]] = slice_iou(rows, columns[:, :, part]).amax(dim=0)
    return best


def norm_loss(num_gt: Tensor, prior_per_image: Tensor) -> Tensor:
    """Return the mean over images of n_gt / sum_ij G_ij; see definition.py.

    Args:
        num_gt: (N,) boxes; prior_per_image: (N,) sum of G. An image where that is 0 adds nothing:
            no box has a location inside, or G underflows at all of them.
    """
    ratio = num_gt / prior_per_image.clamp(min=1e-12)
    return torch.where(prior_per_image > 0, ratio, 0.0).mean()
