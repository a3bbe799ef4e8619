"""What the losses of AutoAssign and FeatureAlign share: a bag of all locations inside each box.

Letters: N images, L levels, R locations of all levels, M boxes of the batch, K classes, P pairs of
a box and a location inside it. Scores are kept as logarithms, so that none underflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cvpods.modeling.losses import iou_loss
from cvpods_ext.assigners.auto_assign import (
    Pairs,
    chunks,
    found_objects,
    inside_pairs,
    log_center_prior,
)
from cvpods_ext.assigners.segments import segment_logsumexp, segment_sum
from cvpods_ext.losses.negatives import negative_focal_loss
from cvpods_ext.losses.targets import check_targets

# 1 / tau: how strongly the weights of a bag prefer its better locations.
SHARPNESS = 3.0
# -log of a bag without locations: a constant, as torch clamps its cross entropy.
LOSS_OF_EMPTY_BAG = 100.0


class Predictions(NamedTuple):
    """cls_logits (N, R, K), obj_logits (N, R, 1), ltrb (N, R, 4) distances >= 0 in pixels."""

    cls_logits: Tensor
    obj_logits: Tensor
    ltrb: Tensor


class Locations(NamedTuple):
    """points (R, 2) in pixels, strides (R,), levels (R,) int64 in [0, L)."""

    points: Tensor
    strides: Tensor
    levels: Tensor


class Prior(NamedTuple):
    """The center prior's mu (L, K, 2) and sigma (L, K, 2), in strides."""

    mu: Tensor
    sigma: Tensor


class Targets(NamedTuple):
    """The boxes of a batch, image after image: boxes (M, 4), classes (M,), image (M,)."""

    boxes: Tensor
    classes: Tensor
    image: Tensor


class PairTerms(NamedTuple):
    """Of P pairs, (P,) each: log of the confidence p, of the box score, of the center prior G.

    box (P,): which of `num_boxes` boxes the pair belongs to.
    """

    log_confidence: Tensor
    log_box: Tensor
    log_prior: Tensor
    box: Tensor
    num_boxes: int

    @property
    def log_joint(self) -> Tensor:
        """log P_ij, P_ij = confidence * box score."""
        return self.log_confidence + self.log_box


class BagSums(NamedTuple):
    """Sums over a batch, before any normaliser.

    positive, negative: () of the positive and of the negative loss; prior: () of all G_ij, without
    gradient; spread: (N,) per image, of what the prior's regulariser sums up; num_gt: (N,) boxes.
    """

    positive: Tensor
    negative: Tensor
    prior: Tensor
    spread: Tensor
    num_gt: Tensor


def bag_sums(
    predictions: Predictions,
    locations: Locations,
    prior: Prior,
    gt_boxes: Sequence[Tensor],
    gt_classes: Sequence[Tensor],
    *,
    gamma: float,
    reg_weight: float,
    log_score: Callable[[PairTerms], Tensor],
    spread: Callable[[PairTerms], Tensor],
) -> BagSums:
    """The sums that both losses consist of.

    Args:
        gt_boxes: N of (M_n, 4) xyxy, pixels; gt_classes: N of (M_n,) int64 in [0, K), unchecked
            (that would wait for the device).
        gamma: exponent of the focal loss.
        reg_weight: of the GIoU loss in the box score exp(-reg_weight * loss).
        log_score: log of the score (P,) of a location in its bag.
        spread: summands (P,) of the prior's regulariser.

    Raises:
        ValueError: shapes that do not go together, no image, or classes that are not int64.
    """
    check_shapes(predictions, locations, prior, gt_boxes, gt_classes)
    dtype = reduce(torch.promote_types, (t.dtype for t in predictions), torch.float32)
    predictions = Predictions(*(tensor.to(dtype) for tensor in predictions))
    gt_boxes = [boxes.to(predictions.ltrb.dtype) for boxes in gt_boxes]
    pairs = [inside_pairs(locations.points, boxes) for boxes in gt_boxes]
    negative = _negatives(predictions, locations.points, pairs, gt_boxes, gt_classes, gamma)

    image = torch.cat([torch.full_like(c, n) for n, c in enumerate(gt_classes)])
    targets = Targets(torch.cat(gt_boxes), torch.cat(list(gt_classes)), image)
    num_images = len(gt_boxes)

    def sums_of(
        boxes: slice, box: Tensor, location: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """positive, prior and spread of some boxes and their pairs."""
        inputs = Predictions(*tensors[:3]), Prior(*tensors[3:])
        chosen = Targets(*(values[boxes] for values in targets))
        terms = pair_terms(*inputs, locations, chosen, Pairs(box, location), reg_weight)
        positive = bag_loss(log_score(terms), terms).sum()
        per_image = segment_sum(spread(terms), chosen.image[box], num_images)
        return positive, terms.log_prior.detach().exp().sum(), per_image

    parts = list(chunks(_joined(pairs, gt_boxes), len(targets.boxes)))
    sums = []
    for boxes, inside in parts:
        arguments = (boxes, *inside, *predictions, *prior)
        if len(parts) == 1:
            sums.append(sums_of(*arguments))
        else:  # a chunk keeps its inputs alone, and is computed again for the gradient
            sums.append(
                checkpoint(sums_of, *arguments, use_reentrant=False, preserve_rng_state=False)
            )
    positive, total_prior, spreads = (sum(terms) for terms in zip(*sums, strict=True))
    num_gt = spreads.new_tensor([len(boxes) for boxes in gt_boxes])
    return BagSums(positive, negative, total_prior, spreads, num_gt)


def pair_terms(
    predictions: Predictions,
    prior: Prior,
    locations: Locations,
    targets: Targets,
    pairs: Pairs,
    reg_weight: float,
) -> PairTerms:
    """The terms of every pair; pairs.location is a location of the box's image."""
    _, num_points, num_classes = predictions.cls_logits.shape
    boxes, classes = targets.boxes[pairs.box], targets.classes[pairs.box]
    points = locations.points[pairs.location]
    entry = targets.image[pairs.box] * num_points + pairs.location  # in (N, R)

    cls_logits = predictions.cls_logits.flatten().index_select(0, entry * num_classes + classes)
    obj_logits = predictions.obj_logits.flatten().index_select(0, entry)
    predicted = predictions.ltrb.flatten(0, 1).index_select(0, entry)
    wanted = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=1)
    box_loss = iou_loss(predicted, wanted, box_mode="ltrb", loss_type="giou")

    row = locations.levels[pairs.location] * num_classes + classes  # in (L, K)
    mu, sigma = (values.flatten(0, 1).index_select(0, row) for values in prior)
    strides = locations.strides[pairs.location]
    return PairTerms(
        F.logsigmoid(cls_logits) + F.logsigmoid(obj_logits),
        -reg_weight * box_loss,
        log_center_prior(points, strides, boxes, mu.to(points.dtype), sigma.to(points.dtype)),
        pairs.box,
        len(targets.boxes),
    )


def log_weights(log_score: Tensor, terms: PairTerms) -> Tensor:
    """log w_ij (P,), w_ij = exp(x_ij / tau) G_ij / (sum_j of the same), the sum at least 1e-12.

    Args:
        log_score: (P,) log x_ij <= 0.
    """
    raw = SHARPNESS * log_score.exp() + terms.log_prior
    total = segment_logsumexp(raw, terms.box, terms.num_boxes).clamp(min=math.log(1e-12))
    return raw - total.index_select(0, terms.box)


def bag_loss(log_score: Tensor, terms: PairTerms) -> Tensor:
    """-log sum_j w_ij x_ij of every box, (num_boxes,); LOSS_OF_EMPTY_BAG where it has no location.

    The w_ij are those of log_weights.

    Args:
        log_score: (P,) log x_ij <= 0.
    """
    weighted = log_weights(log_score, terms) + log_score
    bag = segment_logsumexp(weighted, terms.box, terms.num_boxes)
    size = segment_sum(torch.ones_like(log_score), terms.box, terms.num_boxes)
    return torch.where(size > 0, -bag, LOSS_OF_EMPTY_BAG)


def per_box(sums: BagSums, spread: Tensor) -> Tensor:
    """Mean over the images of n_gt / spread; nothing from images where sums.spread is 0.

    There, no box has a location inside, or G underflows at all of them.
    """
    return torch.where(sums.spread > 0, sums.num_gt / spread, 0.0).mean()


def _negatives(
    predictions: Predictions,
    points: Tensor,
    pairs: Sequence[Pairs],
    gt_boxes: Sequence[Tensor],
    gt_classes: Sequence[Tensor],
    gamma: float,
) -> Tensor:
    """sum_{j,c} FL(p_jc (1 - A_jc)), over all images."""
    cls_logits, obj_logits, ltrb = predictions
    num_classes = cls_logits.shape[-1]
    tables: list[Tensor | None] = []
    for distances, inside, boxes, classes in zip(
        ltrb.detach(), pairs, gt_boxes, gt_classes, strict=True
    ):
        if len(boxes) == 0:
            tables.append(None)
            continue
        predicted = torch.cat([points - distances[:, :2], points + distances[:, 2:]], dim=1)
        tables.append(found_objects(predicted, inside, boxes, classes, num_classes))

    def found_in(n: int, part: slice) -> Tensor | None:
        table = tables[n]
        return None if table is None else table[part]

    return negative_focal_loss(cls_logits, obj_logits, found_in, num_classes, gamma)


def _joined(pairs: Sequence[Pairs], gt_boxes: Sequence[Tensor]) -> Pairs:
    """Pairs of several images, boxes numbered through."""
    first = 0
    boxes = []
    for inside, image_boxes in zip(pairs, gt_boxes, strict=True):
        boxes.append(inside.box + first)
        first += len(image_boxes)
    return Pairs(torch.cat(boxes), torch.cat([inside.location for inside in pairs]))


def check_shapes(
    predictions: Predictions,
    locations: Locations,
    prior: Prior,
    gt_boxes: Sequence[Tensor],
    gt_classes: Sequence[Tensor],
) -> None:
    """Raise ValueError, naming what does not go together."""
    if predictions.cls_logits.dim() != 3 or len(predictions.cls_logits) == 0:
        raise ValueError(
            f"cls_logits must be (N, R, K) of N > 0 images, got "
            f"{tuple(predictions.cls_logits.shape)}."
        )
    n, r, k = predictions.cls_logits.shape
    shapes = {"obj_logits": (n, r, 1), "ltrb": (n, r, 4), "points": (r, 2), "strides": (r,)}
    given = {**predictions._asdict(), **locations._asdict()}
    for name, values in prior._asdict().items():
        if values.shape[1:] != (k, 2) or len(values) != len(prior.mu):
            raise ValueError(
                f"cls_logits {(n, r, k)} need {name} of ({k}, 2) on each level, got "
                f"{tuple(values.shape)} with all {len(values)} levels."
            )
    for name, shape in shapes.items():
        if given[name].shape != shape:
            raise ValueError(
                f"cls_logits {(n, r, k)} need {name} {shape}, got {tuple(given[name].shape)}."
            )
    check_targets(n, gt_boxes, gt_classes)
