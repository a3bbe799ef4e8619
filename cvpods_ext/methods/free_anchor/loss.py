"""Losses of FreeAnchor (arXiv:1909.02466), memory-bounded and in the log domain.

definition.py is the same function as the paper writes it, and explains the letters. Outputs in half
precision are computed in float32 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cvpods.modeling.box_regression import Box2BoxTransform
from cvpods.structures.geometry import has_area
from cvpods_ext.kernels.bags import BAGS_AT_ONCE, anchor_bags, found_objects
from cvpods_ext.kernels.negatives import negative_focal_loss_and_logits
from cvpods_ext.kernels.targets import check_outputs, check_targets


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
    bags_at_once: int = BAGS_AT_ONCE,
    elements_at_once: int | None = None,
) -> dict[str, Tensor]:
    """Return both losses of a batch; arguments and results as in definition.py.

    bags_at_once and elements_at_once bound the memory of tables. Raises ValueError for shapes that
    do not go together, no image, and classes that are not int64.

    Differs from the published code: computed from logits, x_ij in the log domain, so that neither
    p = 1 nor x_ij = 0 is a singularity; -log MeanMax has no ceiling of 100; t2 exceeds t1 by the
    machine's epsilon at least, not by 1e-12, which float32 cannot hold; boxes have their true width
    (no "+ 1") in IoU and deltas, and do not count in N_gt without one.
    """
    n, r, k = cls_logits.shape if cls_logits.dim() == 3 else (0, 0, 0)
    check_outputs(cls_logits, box_deltas=(box_deltas, (n, r, 4)), anchors=(anchors, (r, 4)))
    check_targets(n, gt_boxes, gt_classes)
    logits = cls_logits.to(torch.promote_types(cls_logits.dtype, torch.float32))
    deltas = box_deltas.to(torch.promote_types(box_deltas.dtype, torch.float32))
    anchors, coder = anchors.to(deltas.dtype), Box2BoxTransform(bbox_reg_weights)
    # All boxes of the batch, (M, ...), and the places of their bags in (N * R): (M, B).
    boxes, classes = torch.cat(list(gt_boxes)).to(deltas.dtype), torch.cat(list(gt_classes))
    image = torch.cat([torch.full_like(c, i) for i, c in enumerate(gt_classes)])
    bags = anchor_bags(anchors, boxes, bag_size, bags_at_once, elements_at_once)
    location = image[:, None] * r + bags

    predicted = coder.apply_deltas(deltas.detach(), anchors, strict=False)
    settings = iou_threshold, last_write, elements_at_once
    tables = [
        found_objects(predicted_n, boxes_n, classes_n, k, *settings) if len(boxes_n) else None
        for predicted_n, boxes_n, classes_n in zip(predicted, gt_boxes, gt_classes, strict=True)
    ]
    picked, width = location * k + classes[:, None], max(map(len, gt_classes))
    negative, bag_logits = negative_focal_loss_and_logits(
        logits, picked, tables, gamma, width, elements_at_once
    )
    wanted = coder.get_deltas(anchors[bags], boxes[:, None], strict=False).nan_to_num(0.0, 0.0, 0.0)
    error = F.smooth_l1_loss(deltas.flatten(0, 1)[location], wanted, reduction="none", beta=beta)
    positive = positive_loss(F.logsigmoid(bag_logits) - reg_weight * error.sum(dim=-1))

    counts = has_area(boxes)
    num_gt = counts.sum()
    return {
        "loss_pos": alpha * torch.where(counts, positive, 0.0).sum() / num_gt.clamp(min=1),
        "loss_neg": (1 - alpha) * negative / (num_gt * bag_size).clamp(min=1),
    }


def positive_loss(log_x: Tensor) -> Tensor:
    """Return -log MeanMax(x) of every bag; MeanMax(x) = sum_j x_j w_j / sum_j w_j, w = 1 / (1 - x).

    MeanMax is close to the mean while all x are small, and to the maximum when one nears 1: a bag
    first trains all of its anchors, then its best. 1 - x is kept above 1e-12, and its gradient
    passes through.

    Args:
        log_x: (M, B) log of x, <= 0.

    Returns:
        (M,); zeros for B = 0.
    """
    if log_x.shape[1] == 0:
        return log_x.sum(dim=1)
    return _NegativeLogMeanMax.apply(log_x)


class _NegativeLogMeanMax(torch.autograd.Function):
    """-log MeanMax with a gradient written out.

    Autograd would subtract numbers of size 1 / (1 - x). With shares s_j = x_j w_j / sum(x w) and
    v_j = w_j / sum(w), and c_j = (1 - x_j) w_j, which is 1, but less where 1 - x is kept above
    1e-12:

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
