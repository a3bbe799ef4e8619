"""FreeAnchor's loss as the paper writes it (arXiv:1909.02466, Sec. 3).

The detection customised likelihood has two factors. Recall: every object has a bag of anchors, one
of which at least must be it. Precision: an anchor that has found no object must be background. The
loss is -log of both, with the focal loss's weights. One image at a time, dense tables,
probabilities instead of logarithms. loss.py computes the same in bounded memory. Try an idea here
first; the tests hold the two together.

Letters: boxes i (M), anchors j (R), classes c (K); A_i is the bag of box i, n its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cvpods.modeling.box_regression import Box2BoxTransform
from cvpods.structures.geometry import has_area, iou


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
    """Return both losses of a batch.

    N_gt counts the boxes of this batch on this device, as published. Boxes without area are left
    out; an image without boxes is all negative.

    Args:
        cls_logits: (N, R, K); box_deltas: (N, R, 4).
        anchors: (R, 4) xyxy, pixels of the padded input.
        gt_boxes: N of (M_n, 4) xyxy, pixels; gt_classes: N of (M_n,) int64 in [0, K).
        bag_size: n, anchors in the bag of a box; all of them if R is less.
        iou_threshold: t, from which on a predicted box may count as having found an object.
        alpha: weight of the positive loss; 1 - alpha is that of the negative one.
        gamma: exponent of the focal loss.
        reg_weight, beta: weight of the box loss; error at which smooth L1 turns linear.
        bbox_reg_weights: weights of (dx, dy, dw, dh).
        last_write: if an anchor finds several objects of a class, the last counts (cvpods), not
            the surest.

    Returns:
        {"loss_pos": (), "loss_neg": ()}.
    """
    coder = Box2BoxTransform(bbox_reg_weights)
    positive = negative = cls_logits.new_zeros(())
    for logits, deltas, boxes, classes in zip(
        cls_logits, box_deltas, gt_boxes, gt_classes, strict=True
    ):
        p_cls = logits.sigmoid()  # (R, K)
        p_found = torch.zeros_like(p_cls)
        if len(boxes):
            # Recall: P^cls_ij P^loc_ij of the anchors j in the bag A_i, the n of highest IoU.
            order = iou(boxes[:, None], anchors).sort(dim=1, descending=True, stable=True)
            bag = order.indices[:, :bag_size]  # (M, n)
            wanted = coder.get_deltas(anchors[bag], boxes[:, None], strict=False)
            loss_loc = F.smooth_l1_loss(deltas[bag], wanted, reduction="none", beta=beta).sum(dim=2)
            x = p_cls[bag, classes[:, None]] * torch.exp(-reg_weight * loss_loc)
            w = 1 / (1 - x).clamp(min=1e-12)
            mean_max = (w * x).sum(dim=1) / w.sum(dim=1)
            positive = positive - mean_max[has_area(boxes)].log().sum()

            # P{a_j -> b_i}: a saturated linear function of the predicted box's IoU.
            predicted = coder.apply_deltas(deltas.detach(), anchors, strict=False)
            iou_loc = iou(boxes[:, None], predicted)  # (M, R)
            t1, eps = iou_threshold, torch.finfo(iou_loc.dtype).eps
            t2 = iou_loc.amax(dim=1, keepdim=True).clamp(min=t1 + eps)
            p_match = ((iou_loc - t1) / (t2 - t1)).clamp(0, 1)
            # P{a_j is in A-}: no object of the class has been found.
            for p_match_i, c in zip(p_match, classes, strict=True):
                old = p_found[:, c]
                surest = torch.maximum(old, p_match_i)
                p_found[:, c] = torch.where(p_match_i > 0, p_match_i, old) if last_write else surest

        # Precision: 1 - P{a_j in A-} (1 - P^bg_j) for every anchor and class.
        x = p_cls * (1 - p_found)
        negative = negative - (x**gamma * torch.log(1 - x)).sum()
    num_gt = sum(int(has_area(boxes).sum()) for boxes in gt_boxes)
    return {
        "loss_pos": alpha * positive / max(1, num_gt),
        "loss_neg": (1 - alpha) * negative / max(1, num_gt * bag_size),
    }
