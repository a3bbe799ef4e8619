"""Non-maximum suppression by class: torchvision's, and soft and cluster variants."""

from __future__ import annotations

import torch
from torch import Tensor

from cvpods.structures import geometry
from cvpods.utils.errors import ConfigError

__all__ = ["batched_nms", "batched_softnms", "cluster_nms", "generalized_batched_nms", "nms"]

NMS_TYPES = ("normal", "softnms-linear", "softnms-gaussian", "cluster")


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Call torchvision.ops.nms."""
    from torchvision import ops

    return ops.nms(boxes, scores, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress, class by class, boxes that overlap a better one by more than `iou_threshold`.

    Args:
        boxes: (N, 4) corners, pixels.
        scores: (N,).
        idxs: (N,) class of each box; only boxes of the same class suppress each other.

    Returns:
        (M,) int64 indices of the kept boxes, best first.
    """
    from torchvision import ops

    # torchvision separates classes by shifts that assume coordinates >= 0. In float32 a shifted
    # box is rounded, so that results would depend on the number of its class.
    boxes = boxes.double()
    if len(boxes):
        boxes = boxes - boxes.min().clamp(max=0)
    return ops.batched_nms(boxes, scores.double(), idxs, iou_threshold)


def batched_softnms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    score_threshold: float = 0.001,
    soft_mode: str = "gaussian",
) -> Tensor:
    """Decay the scores of overlapping boxes (Soft-NMS, arXiv:1704.04503), `scores` in place.

    linear: s *= 1 - IoU if IoU >= threshold; gaussian: s *= exp(-IoU^2 / threshold).

    Returns:
        (M,) int64 indices of boxes above `score_threshold`, by decayed score.

    Raises:
        ValueError: soft_mode is unknown.
    """
    if soft_mode not in ("linear", "gaussian"):
        raise ValueError(f"soft_mode must be 'linear' or 'gaussian'; got {soft_mode!r}.")
    boxes = boxes.float()
    for class_id in idxs.unique():
        rest = (idxs == class_id).nonzero().flatten()
        while len(rest) > 1:
            best = scores[rest].argmax()
            top, rest = rest[best], torch.cat([rest[:best], rest[best + 1 :]])
            iou = geometry.iou(boxes[top], boxes[rest])
            if soft_mode == "linear":
                decay = torch.where(iou >= iou_threshold, 1 - iou, 1.0)
            else:
                decay = torch.exp(-iou.square() / iou_threshold)
            scores[rest] *= decay.to(scores.dtype)
            rest = rest[scores[rest] > score_threshold]
    order = scores.argsort(descending=True)
    return order[scores[order] > score_threshold]


def cluster_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Compute NMS as a fixed point of matrix steps (Cluster-NMS, arXiv:2005.03572).

    The result is that of NMS.
    """
    order = scores.argsort(descending=True, stable=True)
    same_class = idxs[order][:, None] == idxs[order]
    ordered = boxes[order].float()
    iou = (geometry.iou(ordered[:, None], ordered) * same_class).triu(diagonal=1)
    kept = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for _ in range(len(order)):
        new = ~((iou > iou_threshold) & kept[:, None]).any(dim=0)
        if torch.equal(new, kept):
            break
        kept = new
    return order[kept]


def generalized_batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    score_threshold: float = 0.001,
    nms_type: str = "normal",
) -> Tensor:
    """Suppress by `nms_type`: "normal", "softnms-linear", "softnms-gaussian" or "cluster".

    Returns:
        (M,) int64 indices of the kept boxes, best first.

    Raises:
        ConfigError: nms_type is unknown.
    """
    if nms_type == "normal":
        return batched_nms(boxes, scores, idxs, iou_threshold)
    if nms_type in ("softnms-linear", "softnms-gaussian"):
        mode = nms_type.removeprefix("softnms-")
        return batched_softnms(boxes, scores, idxs, iou_threshold, score_threshold, mode)
    if nms_type == "cluster":
        return cluster_nms(boxes, scores, idxs, iou_threshold)
    raise ConfigError(f"MODEL.NMS_TYPE must be one of {', '.join(NMS_TYPES)}; got {nms_type!r}.")
