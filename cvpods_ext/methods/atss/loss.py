"""Losses of ATSS (arXiv:1912.02424, Sec. 4): focal, GIoU weighted by centerness, centerness."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cvpods.modeling.losses import at_least_float32, iou_loss, one_hot, sigmoid_focal_loss_jit
from cvpods.structures.geometry import centerness_of, centers, distances_to_sides
from cvpods_ext.kernels.assignment import IGNORE


class AtssTargets(NamedTuple):
    """Targets of the anchors of N images.

    classes: (N, R) int64; K is background, -1 ignored.
    boxes: (N, R, 4) xyxy of the box that a positive is assigned to; the anchor itself elsewhere.
    centerness: (N, R) in [0, 1] for positives, 0 elsewhere.
    """

    classes: Tensor
    boxes: Tensor
    centerness: Tensor


@torch.no_grad()
def atss_targets(
    anchors: Tensor, gt_index: Tensor, gt_boxes: Tensor, gt_classes: Tensor, num_classes: int
) -> AtssTargets:
    """Return the targets of one image, given its assignment.

    Args:
        anchors: (R, 4) xyxy, pixels.
        gt_index: (R,) box of each anchor, or BACKGROUND, or IGNORE.
        gt_boxes: (M, 4) xyxy, pixels; gt_classes: (M,) int64 in [0, K).

    Returns:
        AtssTargets with shapes (R,), (R, 4) and (R,).
    """
    positive = gt_index >= 0
    # One more row, so that images without boxes need no branch.
    padded_boxes = torch.cat([gt_boxes.float(), gt_boxes.new_zeros(1, 4)])
    padded_classes = torch.cat([gt_classes, gt_classes.new_full((1,), num_classes)])
    row = torch.where(positive, gt_index, len(gt_boxes))
    classes = torch.where(gt_index == IGNORE, -1, padded_classes[row])
    boxes = torch.where(positive[:, None], padded_boxes[row], anchors)
    quality = centerness_of(distances_to_sides(centers(anchors), boxes))
    return AtssTargets(classes, boxes, torch.where(positive, quality, 0.0))


def atss_loss(
    cls_logits: Tensor,
    boxes: Tensor,
    centerness_logits: Tensor,
    targets: AtssTargets,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> dict[str, Tensor]:
    """Return the sums of the three losses, before their normalisers.

    loss_cls: focal loss over all anchors and classes (ignored anchors left out).
    loss_box_reg: centerness * (1 - GIoU(box, target)) over positives.
    loss_centerness: binary cross-entropy against the target's centerness over positives.

    Args:
        cls_logits: (N, R, K); boxes: (N, R, 4) predicted xyxy, pixels;
        centerness_logits: (N, R, 1).
        targets: shapes (N, R), (N, R, 4), (N, R).

    Returns:
        {"loss_cls": (), "loss_box_reg": (), "loss_centerness": ()}; gradients exist, and are 0
        without positives.
    """
    num_classes = cls_logits.shape[-1]
    valid = targets.classes >= 0
    positive = valid & (targets.classes < num_classes)
    wanted = one_hot(targets.classes, num_classes)
    cls = sigmoid_focal_loss_jit(cls_logits, wanted, alpha, gamma)
    # Others compare their target with itself: loss and gradient 0, and no indexing of unknown size.
    boxes = torch.where(positive[..., None], at_least_float32(boxes), targets.boxes)
    box = iou_loss(boxes, targets.boxes, loss_type="giou")
    quality = F.binary_cross_entropy_with_logits(
        at_least_float32(centerness_logits[..., 0]), targets.centerness, reduction="none"
    )
    return {
        "loss_cls": (cls * valid[..., None]).sum(),
        "loss_box_reg": (box * targets.centerness).sum(),
        "loss_centerness": (quality * positive).sum(),
    }
