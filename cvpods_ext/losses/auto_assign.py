"""AutoAssign's loss (arXiv:2007.03496): every location inside a box may answer for it, by weight.

For boxes i, locations j, classes c; S_i the locations of all levels strictly inside box i:

    loss_pos  = alpha / max(1, N_gt)  sum_i -log sum_{j in S_i} w+_ij P_ij
    loss_neg  = (1 - alpha) / max(1, N_G)  sum_{j,c} FL(p_jc w-_jc),   FL(x) = -x^gamma log(1 - x)
    loss_norm = (1 - alpha)  mean over images  n_gt / sum_{i, j in S_i} G_ij

    p_jc  = sigmoid(cls_jc) sigmoid(obj_j)                      what is there: class, objectness
    P_ij  = p_{j c_i} exp(-reg_weight GIoULoss(box_j, box_i))   and how well it is placed
    w+_ij = exp(P_ij / tau) G_ij / sum_{j in S_i} of the same   tau = 1/3
    w-_jc = 1 - A_jc                                            A: assigners.auto_assign
    G_ij  = the center prior, a Gaussian with learned mu and sigma per class

N_gt is the number of boxes, N_G the sum of all G_ij, both the mean over the ranks. loss_norm is not
in the paper but in its authors' code: it alone enlarges sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cvpods_ext.losses.location_bags import (
    BagSums,
    Locations,
    PairTerms,
    Predictions,
    Prior,
    bag_sums,
    per_box,
)


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
    """The three losses of a batch, as at the top of this file.

    A box without a location inside costs a constant 100 in the sum of loss_pos; an image without
    boxes is all negative.

    Args:
        cls_logits: (N, R, K); obj_logits: (N, R, 1). Halves are computed in float32.
        ltrb: (N, R, 4) predicted distances to the sides, >= 0, pixels.
        points: (R, 2), pixels of the padded input; strides: (R,) of their levels.
        mu, sigma: (K, 2) of the center prior, in strides.
        gt_boxes: N of (M_n, 4) xyxy, pixels; gt_classes: N of (M_n,) int64 in [0, K),
            which is not checked.
        alpha: weight of the positive loss; 1 - alpha is that of the others.
        gamma: exponent of the focal loss.
        reg_weight: the paper's lambda, of the box loss in P_ij.
        average: (N_gt, N_G) of this rank -> their mean over the ranks.

    Returns:
        {"loss_pos": (), "loss_neg": (), "loss_norm": ()}.

    Raises:
        ValueError: shapes that do not go together, no image, or classes that are not int64.

    Differs from the published code: computed from logits, in the log domain, so that the positive
    loss of a box with locations has no ceiling of 100, and a gradient at any logit; where boxes of
    one class share a location, the last counts for A on every device; an image whose boxes hold no
    location adds nothing to loss_norm (published: 1e12 n_gt, without gradient).
    """
    sums = bag_sums(
        Predictions(cls_logits, obj_logits, ltrb),
        Locations(points, strides, torch.zeros_like(strides, dtype=torch.int64)),
        Prior(mu[None], sigma[None]),
        gt_boxes,
        gt_classes,
        gamma=gamma,
        reg_weight=reg_weight,
        log_score=lambda terms: terms.log_joint,
        spread=center_prior,
    )
    loss_norm = (1 - alpha) * per_box(sums, sums.spread.clamp(min=1e-12))
    return {**bag_losses(sums, alpha, average), "loss_norm": loss_norm}


def center_prior(terms: PairTerms) -> Tensor:
    """G (P,)."""
    return terms.log_prior.exp()


def bag_losses(
    sums: BagSums, alpha: float, average: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """loss_pos and loss_neg, normalised by N_gt and N_G."""
    counts = torch.stack([sums.num_gt.sum(), sums.prior])
    num_gt, total_prior = average(counts).clamp(min=1)
    return {
        "loss_pos": alpha * sums.positive / num_gt,
        "loss_neg": (1 - alpha) * sums.negative / total_prior,
    }
