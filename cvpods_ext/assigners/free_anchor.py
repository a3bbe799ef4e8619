"""Who may answer for which box in FreeAnchor (arXiv:1909.02466): bags, and objects found.

Tables of boxes x anchors are made in slices, so that memory does not grow with their product.
Inside a slice the work is whole-tensor arithmetic; nothing here waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cvpods.utils.slices import slices
from cvpods_ext.assigners.slices import as_columns, as_rows, slice_iou

# Whole rows of anchors that are sorted together; slices of fewer do not use all cores.
BAGS_AT_ONCE = 16
# Neighbouring anchors that _top looks at together.
GROUP = 64


@torch.no_grad()
def anchor_bags(anchors: Tensor, gt_boxes: Tensor, bag_size: int) -> Tensor:
    """The bag of every box: its `bag_size` anchors of highest IoU, over all levels, no threshold.

    Sec. 3.2 of the paper. Of anchors of equal IoU (common: equal anchors inside a larger box) the
    first are taken.

    Args:
        anchors: (R, 4) xyxy, pixels.
        gt_boxes: (M, 4) xyxy, pixels.

    Returns:
        (M, min(bag_size, R)) int64 indices of anchors, in no particular order.
    """
    size = min(bag_size, len(anchors))
    rows, columns = as_rows(gt_boxes), as_columns(anchors)
    columns = F.pad(columns, (0, -len(anchors) % GROUP))
    bags = [gt_boxes.new_zeros((0, size), dtype=torch.int64)]
    for part in slices(len(gt_boxes), len(anchors), anchors.device, at_least=BAGS_AT_ONCE):
        iou = slice_iou(rows[:, part], columns)
        iou[:, len(anchors) :] = -1
        bags.append(_top(iou, size))
    return torch.cat(bags)


def _top(values: Tensor, size: int) -> Tensor:
    """Indices (M, size) of the largest values (M, G * GROUP) of every row; of equals, the first.

    They lie in the `size` groups of largest maximum: faster than topk over a row.
    """
    groups = values.unflatten(1, (-1, GROUP))
    best = _first_top(groups.amax(dim=2), min(size, groups.shape[1])).sort(dim=1).values
    members = groups.gather(1, best[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    inner = _first_top(members, size)
    return best.gather(1, inner // GROUP) * GROUP + inner % GROUP


def _first_top(values: Tensor, size: int) -> Tensor:
    """As topk's indices, but of equal values the first are taken, on every device."""
    limit = values.topk(size, dim=1).values[:, -1:]
    rank = (values > limit).long() + (values >= limit)
    position = torch.arange(values.shape[1], device=values.device)
    return (rank * values.shape[1] - position).topk(size, dim=1, sorted=False).indices


class Predictions(NamedTuple):
    """The predicted boxes of an image and its objects, ready to be compared slice by slice.

    boxes: (4, 1, R) columns of the predicted boxes; gt_boxes: (4, M, 1); gt_classes: (M,);
    best_iou: (M, 1) t2.
    """

    boxes: Tensor
    gt_boxes: Tensor
    gt_classes: Tensor
    best_iou: Tensor


@torch.no_grad()
def predictions_of(
    boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor, *, iou_threshold: float = 0.6
) -> Predictions:
    """Find t2_i = max_j IoU_ij of every object i over the predicted boxes j.

    t2 is kept so far above `iou_threshold` (t1) that their difference does not vanish.

    Args:
        boxes: (R, 4) xyxy predicted boxes, pixels.
        gt_boxes: (M, 4) xyxy, pixels; gt_classes: (M,) int64 in [0, K).
    """
    columns, rows = as_columns(boxes), as_rows(gt_boxes.to(boxes.dtype))
    count = len(gt_boxes)
    best = boxes.new_full((count, 1), iou_threshold + torch.finfo(boxes.dtype).eps)
    if count:
        for part in slices(len(boxes), count, boxes.device):
            iou = slice_iou(rows, columns[:, :, part])
            torch.maximum(best, iou.amax(dim=1, keepdim=True), out=best)
    return Predictions(columns, rows, gt_classes, best)


@torch.no_grad()
def object_probability(
    predictions: Predictions, part: slice, *, iou_threshold: float = 0.6
) -> Tensor:
    """P{j -> i} (M, r): how surely the predicted box of anchor j in `part` is object i.

    The saturated linear function clamp((IoU_ij - t1) / (t2_i - t1), 0, 1), t1 = `iou_threshold`.
    """
    iou = slice_iou(predictions.gt_boxes, predictions.boxes[:, :, part])
    return iou.sub_(iou_threshold).div_(predictions.best_iou - iou_threshold).clamp_(0, 1)


@torch.no_grad()
def class_probability(
    probability: Tensor, gt_classes: Tensor, num_classes: int, *, last_write: bool = False
) -> Tensor:
    """A_jc (r, K): the maximum of P{j -> i} over the objects i of class c, 0 where there is none.

    Args:
        probability: (M, r) from object_probability.
        gt_classes: (M,) int64 in [0, K).
        last_write: take the last object of the class with P > 0 instead, as cvpods does.
    """
    count, width = probability.shape
    rows = gt_classes[:, None].expand_as(probability)
    table = probability.new_zeros((num_classes, width))
    if not last_write:
        return table.scatter_reduce_(0, rows, probability, "amax").t()
    order = torch.arange(1, count + 1, device=table.device, dtype=table.dtype)[:, None]
    last = table.scatter_reduce_(0, rows, order * (probability > 0), "amax").long()
    return torch.cat([probability.new_zeros((1, width)), probability]).gather(0, last).t()
