"""FreeAnchor's loss (arXiv:1909.02466): every box keeps a bag of anchors and learns which is best.

For boxes i, anchors j and classes c:

    loss_pos = alpha / max(1, N_gt)  sum_i -log MeanMax_{j in bag i} x_ij
    loss_neg = (1 - alpha) / max(1, n N_gt)  sum_{j,c} FL(p_jc (1 - A_jc))
    FL(x)    = -x^gamma log(1 - x)

    x_ij  = p_{j c_i} exp(-reg_weight SmoothL1(delta_j - encode(box i, anchor j)))
    p_jc  = sigmoid of the class logit
    A_jc  = how surely anchor j's predicted box is an object of class c (class_probability)
    n     = bag_size, N_gt = number of boxes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cvpods.modeling.box_regression import Box2BoxTransform
from cvpods.modeling.losses import at_least_float32, smooth_l1_loss
from cvpods_ext.assigners.free_anchor import (
    anchor_bags,
    class_probability,
    object_probability,
    predictions_of,
)
from cvpods_ext.losses.negatives import Found, negatives_and_slopes
from cvpods_ext.losses.targets import check_targets


def free_anchor_loss(
    cls_logits: Tensor,
    box_deltas: Tensor,
    anchors: Tensor,
    gt_boxes: Sequence[Tensor],
    gt_classes: Sequence[Tensor],
    *,
    bag_size: int = 50,
    iou_threshold: float = 0.6,
    alpha: float = 0.5,
    gamma: float = 2.0,
    reg_weight: float = 0.75,
    beta: float = 0.11,
    bbox_reg_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    last_write: bool = False,
) -> dict[str, Tensor]:
    """Both losses of a batch, as at the top of this file.

    N_gt counts the boxes of this batch on this device, as published. Boxes without area are left
    out; an image without boxes is all negative.

    Args:
        cls_logits: (N, R, K); box_deltas: (N, R, 4). Halves are computed in float32.
        anchors: (R, 4) xyxy, pixels of the padded input.
        gt_boxes: N of (M_n, 4) xyxy, pixels; gt_classes: N of (M_n,) int64 in [0, K).
        bag_size: n, anchors in the bag of a box; all of them where R is less.
        iou_threshold: t1 of A_jc.
        alpha: weight of the positive loss; 1 - alpha is that of the negative one.
        gamma: exponent of the focal loss.
        reg_weight, beta: of the box term in x_ij (smooth L1's beta).
        bbox_reg_weights: weights of (dx, dy, dw, dh).
        last_write: see class_probability.

    Returns:
        {"loss_pos": (), "loss_neg": ()}.

    Raises:
        ValueError: shapes that do not go together, no image, or classes that are not int64.

    Differs from the published code: computed from logits, x_ij in the log domain, so that neither
    p = 1 nor x_ij = 0 is a singularity; -log MeanMax has no ceiling of 100; t2 exceeds t1 by the
    machine's epsilon at least, not by 1e-12, which float32 cannot hold; boxes have their true width
    (no "+ 1") in IoU and deltas, and do not count in N_gt without one.
    """
    _check_shapes(cls_logits, box_deltas, anchors, gt_boxes, gt_classes)
    num_images, num_anchors, num_classes = cls_logits.shape
    logits, deltas = at_least_float32(cls_logits), at_least_float32(box_deltas)
    anchors = anchors.to(deltas.dtype)
    coder = Box2BoxTransform(bbox_reg_weights)

    predicted = coder.apply_deltas(deltas.detach(), anchors, strict=False)
    predictions = [
        predictions_of(predicted[n], boxes, classes, iou_threshold=iou_threshold)
        for n, (boxes, classes) in enumerate(zip(gt_boxes, gt_classes, strict=True))
    ]

    def found(n: int, part: slice) -> Tensor | None:
        """A (r, K) of a slice of image n; None where it has no boxes."""
        if len(gt_classes[n]) == 0:
            return None
        per_box = object_probability(predictions[n], part, iou_threshold=iou_threshold)
        return class_probability(per_box, gt_classes[n], num_classes, last_write=last_write)

    # All boxes of the batch, (M, ...), and where their bags lie in (N * R): (M, B).
    boxes, classes = torch.cat(list(gt_boxes)).to(deltas.dtype), torch.cat(list(gt_classes))
    image = torch.cat([torch.full_like(c, n) for n, c in enumerate(gt_classes)])
    bags = anchor_bags(anchors, boxes, bag_size)
    location = image[:, None] * num_anchors + bags

    # Neither the logits nor the pairs of a slice are many.
    widest = max(num_classes, *map(len, gt_classes))
    loss_neg, bag_logits = _NegativesAndBags.apply(
        logits, location * num_classes + classes[:, None], found, widest, gamma
    )
    wanted = coder.get_deltas(anchors[bags], boxes[:, None], strict=False).nan_to_num(0.0, 0.0, 0.0)
    box_error = smooth_l1_loss(deltas.flatten(0, 1)[location], wanted, beta).sum(dim=-1)
    log_x = F.logsigmoid(bag_logits) - reg_weight * box_error

    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    num_boxes = has_area.sum()
    loss_pos = torch.where(has_area, negative_log_mean_max(log_x), 0.0).sum()
    return {
        "loss_pos": loss_pos * alpha / num_boxes.clamp(min=1),
        "loss_neg": loss_neg * (1 - alpha) / (num_boxes * bag_size).clamp(min=1),
    }


def negative_log_mean_max(log_x: Tensor) -> Tensor:
    """-log MeanMax(x) of every row; MeanMax(x) = sum_j x_j w_j / sum_j w_j, w = 1 / (1 - x).

    Close to the mean while all x are small, to the maximum when one nears 1: a bag first trains all
    of its anchors, then its best. 1 - x is kept above 1e-12, and its gradient passes through.

    Args:
        log_x: (M, B) log of x, <= 0.

    Returns:
        (M,); zeros for B = 0.
    """
    if log_x.shape[1] == 0:
        return log_x.sum(dim=1)
    return _NegativeLogMeanMax.apply(log_x)


class _NegativeLogMeanMax(torch.autograd.Function):
    """The gradient is written out: autograd would subtract numbers of size 1 / (1 - x) there.

    With shares s_j = x_j w_j / sum(x w) and v_j = w_j / sum(w), and c_j = (1 - x_j) w_j, which is 1
    but less where 1 - x is kept above 1e-12:

        d(-log MeanMax) / d log x_j = -s_j (1 - c_j + v_j sum c)
    """

    @staticmethod
    def forward(ctx: Any, log_x: Tensor) -> Tensor:
        rest = -torch.expm1(log_x)  # 1 - x
        log_w = -rest.clamp(min=1e-12).log()
        shares_x, shares_w = (log_x + log_w).softmax(dim=1), log_w.softmax(dim=1)
        covered = (rest * 1e12).clamp(max=1)
        ctx.save_for_backward(shares_x, shares_w, covered)
        from_logs = log_w.logsumexp(dim=1) - (log_x + log_w).logsumexp(dim=1)
        missed = covered.sum(dim=1) / log_w.exp().sum(dim=1)  # 1 - MeanMax, exact when it is small
        return torch.where(missed < 0.5, -torch.log1p(-missed.clamp(max=0.5)), from_logs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        shares_x, shares_w, covered = ctx.saved_tensors
        return -grad[:, None] * shares_x * (1 - covered + shares_w * covered.sum(1, keepdim=True))


class _NegativesAndBags(torch.autograd.Function):
    """Sum of FL(p (1 - A)) over all logits, and the logits at the bags, read in one place.

    Forward writes the one gradient that backward hands out, slice by slice. Autograd on the formula
    would keep a handful of tensors of the logits' size.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, bags: Tensor, found: Found, width: int, gamma: float
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, bags)
        ctx.arguments = found, width, gamma
        total, ctx.slope, _ = negatives_and_slopes(
            logits, None, found, width, gamma, ctx.needs_input_grad[0]
        )
        return total, logits.flatten()[bags]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_bags: Tensor) -> tuple[Tensor | None, ...]:
        logits, bags = ctx.saved_tensors
        slope, ctx.slope = ctx.slope, None  # given away; computed anew for a retained graph
        if slope is None:
            found, width, gamma = ctx.arguments
            _, slope, _ = negatives_and_slopes(logits, None, found, width, gamma, True)
        slope.mul_(grad).flatten().index_add_(0, bags.flatten(), grad_bags.flatten())
        return slope, None, None, None, None


def _check_shapes(
    cls_logits: Tensor,
    box_deltas: Tensor,
    anchors: Tensor,
    gt_boxes: Sequence[Tensor],
    gt_classes: Sequence[Tensor],
) -> None:
    n, r = cls_logits.shape[:2]
    if n == 0:
        raise ValueError(f"There is no image: cls_logits {tuple(cls_logits.shape)}.")
    if box_deltas.shape != (n, r, 4) or anchors.shape != (r, 4):
        raise ValueError(
            f"cls_logits {tuple(cls_logits.shape)} need box_deltas ({n}, {r}, 4) and anchors "
            f"({r}, 4); got {tuple(box_deltas.shape)} and {tuple(anchors.shape)}."
        )
    check_targets(n, gt_boxes, gt_classes)
