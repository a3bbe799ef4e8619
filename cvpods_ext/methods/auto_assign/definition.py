"""AutoAssign's loss as the paper writes it (arXiv:2007.03496; equation numbers of its version 1).

One image at a time, dense tables (M, R), probabilities instead of logarithms. loss.py computes the
same in bounded memory. Try an idea here first; the tests hold the two together.

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
    """Return the three losses of a batch.

    loss_pos and loss_neg are the two terms of Eq. 12. loss_norm is not in the paper but in its
    authors' code: it alone enlarges sigma. Normalisers are the authors' too: the number of boxes,
    the sum of all G_ij, the number of images.

    Args:
        cls_logits: (N, R, K); obj_logits: (N, R, 1).
        ltrb: (N, R, 4) predicted distances to the sides, >= 0, pixels.
        points: (R, 2), pixels of the padded input; strides: (R,) of their levels.
        mu, sigma: (K, 2) of the center prior, in strides.
        gt_boxes: N of (M_n, 4) xyxy, pixels; gt_classes: N of (M_n,) int64 in [0, K), which is not
            checked (that would wait for the device).
        alpha: weight of the positive loss; 1 - alpha is that of the others.
        gamma: exponent of the focal loss.
        reg_weight: lambda, the weight of the box loss in P_ij.
        average: (number of boxes, sum of G) of this rank -> their mean over the ranks.

    Returns:
        {"loss_pos": (), "loss_neg": (), "loss_norm": ()}.
    """
    positive = negative = norm = sum_g = cls_logits.new_zeros(())
    for logits, obj, distances, boxes, classes in zip(
        cls_logits, obj_logits, ltrb, gt_boxes, gt_classes, strict=True
    ):
        predicted = boxes_around(points, distances)  # (R, 4)
        in_s = distances_to_sides(points, boxes[:, None]).amin(dim=2) > 0  # (M, R): j in S_i

        # Center weighting.                                                                  Eq. 2
        d = (points - centers(boxes)[:, None]) / strides[:, None]
        exponent = (d - mu[classes, None]).square() / (2 * sigma[classes, None].square())
        g = torch.exp(-exponent.sum(dim=2)) * in_s

        # Confidence weighting.                                                           Eq. 3 - 9
        p_cls = logits.sigmoid() * obj.sigmoid()  # (R, K)
        loss_loc = 1 - generalized_iou(predicted, boxes[:, None])
        p = p_cls[:, classes].t() * torch.exp(-reg_weight * loss_loc)  # (M, R)
        c = torch.exp(3 * p)  # tau = 1 / 3

        # Positive weights, and the probability that some location is the box.         Eq. 10, 12
        w_pos = c * g / (c * g).sum(dim=1, keepdim=True).clamp(min=1e-12)
        p_pos = (w_pos * p).sum(dim=1)
        has_location = in_s.any(dim=1)
        positive = positive - torch.where(has_location, p_pos, 1).log().sum()
        positive = positive + 100 * (~has_location).sum()  # -log 0

        # Negative weights, without gradient.                                          Eq. 11, 12
        w_neg = torch.ones_like(p_cls)
        best = iou(predicted, boxes[:, None]).amax(dim=0).detach() if len(boxes) else torch.zeros(0)
        for i in torch.nonzero(has_location).flatten():
            v = 1 / (1 - best[in_s[i]]).clamp(min=1e-12)
            f = (v - v.min() + 1e-12) / (v.max() - v.min() + 1e-12)
            w_neg[in_s[i], classes[i]] = 1 - f
        x = p_cls * w_neg
        negative = negative - (x**gamma * torch.log(1 - x)).sum()

        if g.sum() > 0:
            norm = norm + len(boxes) / g.sum().clamp(min=1e-12) / len(gt_boxes)
        sum_g = sum_g + g.detach().sum()
    num_boxes = sum_g.new_tensor(float(sum(len(boxes) for boxes in gt_boxes)))
    num_positive, num_negative = average(torch.stack([num_boxes, sum_g])).clamp(min=1)
    return {
        "loss_pos": alpha * positive / num_positive,
        "loss_neg": (1 - alpha) * negative / num_negative,
        "loss_norm": (1 - alpha) * norm,
    }
