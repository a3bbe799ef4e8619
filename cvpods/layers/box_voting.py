"""Box voting, which averages overlapping boxes of one class instead of suppressing them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cvpods.layers.nms import batched_nms
from cvpods.structures import geometry


def box_voting(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    iou_threshold: float,
    *,
    soft: bool = True,
    min_score: float = 0.05,
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge each cluster of boxes into one, class by class.

    1. The best remaining box heads a cluster: itself and all remaining boxes of its class with an
       IoU >= `iou_threshold` to it. Repeat with the rest.
    2. A cluster becomes one box: the mean of its boxes weighted by their scores, with the highest
       score. A cluster of one box stays as it is.
    3. With `soft`, every other member stays too, at its own place, with score * (1 - IoU to the
       head) if that is at least `min_score`.

    ATSS's 50.7 AP (arXiv:1912.02424, its authors' bbox_aug_vote) and cvpods use this protocol.

    Args:
        boxes: (N, 4) xyxy, pixels; scores: (N,); classes: (N,).

    Returns:
        boxes (J, 4), scores (J,) and classes (J,), best first.

    Differs from the published code: continuous boxes, without the legacy one pixel in widths.
    """
    boxes, scores = boxes.float(), scores.float()
    # nms() suppresses boxes above its threshold, which is float32 on GPUs; with the next smaller
    # number it also suppresses boxes at the threshold.
    below = np.nextafter(np.float32(iou_threshold), np.float32(-1))
    heads = batched_nms(boxes, scores, classes, float(below))  # (H,), best first
    iou = geometry.iou(boxes[heads][:, None], boxes)  # (H, N)
    iou = torch.where(classes[heads][:, None] == classes, iou, -1.0)
    cluster = _first_head(iou, heads, iou_threshold)  # (N,)

    weight = scores.new_zeros(len(heads)).index_add(0, cluster, scores)
    means = boxes.new_zeros(len(heads), 4).index_add(0, cluster, boxes * scores[:, None])
    counts = torch.bincount(cluster, minlength=len(heads))
    several = ((counts > 1) & (weight > 0))[:, None]
    merged = torch.where(several, means / weight[:, None], boxes[heads])
    parts = [(merged, scores[heads], classes[heads])]
    if soft:
        decayed = scores * (1 - iou.gather(0, cluster[None])[0])
        decayed[heads] = -1.0
        kept = decayed >= min_score
        parts.append((boxes[kept], decayed[kept], classes[kept]))
    boxes, scores, classes = (torch.cat(part) for part in zip(*parts, strict=True))
    order = scores.argsort(descending=True, stable=True)
    return boxes[order], scores[order], classes[order]


def _first_head(iou: Tensor, heads: Tensor, iou_threshold: float) -> Tensor:
    """Return the cluster (N,) of each box: the first head with enough IoU (H, N).

    A head belongs to its own cluster. A box that rounding leaves without a head belongs to the one
    of its highest IoU.
    """
    if iou.numel() == 0:
        return heads.new_zeros(iou.shape[1])
    enough = iou >= iou_threshold
    cluster = torch.where(enough.any(dim=0), enough.int().argmax(dim=0), iou.argmax(dim=0))
    cluster[heads] = torch.arange(len(heads), device=heads.device)
    return cluster
