"""FreeAnchor's tables of boxes x anchors: the bags, and the objects that predictions have found.

FreeAnchor, arXiv:1909.02466. The tables are made in slices, so that memory does not grow with
boxes x anchors. Inside a slice the work is whole-tensor arithmetic that never waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cvpods.structures.geometry import as_columns, as_rows, iou_table
from cvpods.structures.slices import slices

# Whole rows of anchors that are sorted together; slices of fewer do not use all cores.
BAGS_AT_ONCE = 16
# Neighbouring anchors that _top looks at together.
GROUP = 64


@torch.no_grad()
def anchor_bags(
    anchors: Tensor,
    gt_boxes: Tensor,
    bag_size: int,
    bags_at_once: int = BAGS_AT_ONCE,
    elements_at_once: int | None = None,
) -> Tensor:
    """Return the bag of every box: its `bag_size` anchors of highest IoU, over all levels.

    No threshold is applied to the IoU (Sec. 3.2). Of anchors of equal IoU (common: equal anchors
    inside a larger box) the first are taken.

    Args:
        anchors: (R, 4) xyxy, pixels.
        gt_boxes: (M, 4) xyxy, pixels.
        bags_at_once, elements_at_once: least number of rows, and size, of the slices.

    Returns:
        (M, min(bag_size, R)) int64 indices of anchors, in no particular order.
    """
    size = min(bag_size, len(anchors))
    rows, columns = as_rows(gt_boxes), as_columns(anchors)
    columns = F.pad(columns, (0, -len(anchors) % GROUP))
    bags = [gt_boxes.new_zeros((0, size), dtype=torch.int64)]
    for part in slices(len(gt_boxes), len(anchors), anchors.device, bags_at_once, elements_at_once):
        iou = iou_table(rows[:, part], columns)
        iou[:, len(anchors) :] = -1
        bags.append(_top(iou, size))
    return torch.cat(bags)


def _top(values: Tensor, size: int) -> Tensor:
    """Return the indices (M, size) of the largest values (M, G * GROUP) of every row.

    Of equal values the first are taken. All of them lie in the `size` groups of largest maximum,
    which makes this faster than topk over a row.
    """
    groups = values.unflatten(1, (-1, GROUP))
    best = _first_top(groups.amax(dim=2), min(size, groups.shape[1])).sort(dim=1).values
    members = groups.gather(1, best[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    inner = _first_top(members, size)
    return best.gather(1, inner // GROUP) * GROUP + inner % GROUP


def _first_top(values: Tensor, size: int) -> Tensor:
    """Return topk's indices, except that of equal values the first are taken on every device."""
    limit = values.topk(size, dim=1).values[:, -1:]
    rank = (values > limit).long() + (values >= limit)
    position = torch.arange(values.shape[1], device=values.device)
    return (rank * values.shape[1] - position).topk(size, dim=1, sorted=False).indices


@dataclass(frozen=True)
class FoundObjects:
    """A_jc of one image, computed for a slice of its anchors at a time: `found[part]` is (r, K).

    A_jc is the probability that the predicted box of anchor j has found an object of class c: the
    maximum of P{j -> i} over the objects i of class c, and 0 if the image has none of them.

    boxes: (4, 1, R) columns of the predicted boxes; gt_boxes: (4, M, 1) rows, pixels.
    gt_classes: (M,) int64 in [0, K).
    best_iou: (M, 1) t2, see found_objects.
    iou_threshold: t1.
    last_write: take the last object of a class with P > 0 instead of the maximum, as cvpods does.
    """

    boxes: Tensor
    gt_boxes: Tensor
    gt_classes: Tensor
    best_iou: Tensor
    iou_threshold: float
    num_classes: int
    last_write: bool

    @torch.no_grad()
    def object_probability(self, part: slice) -> Tensor:
        """Return P{j -> i} (M, r) for the anchors j of `part`.

        It is the saturated linear function clamp((IoU_ij - t1) / (t2_i - t1), 0, 1).
        """
        iou = iou_table(self.gt_boxes, self.boxes[:, :, part])
        return iou.sub_(self.iou_threshold).div_(self.best_iou - self.iou_threshold).clamp_(0, 1)

    @torch.no_grad()
    def __getitem__(self, part: slice) -> Tensor:
        """Return A (r, K) for the anchors of `part`."""
        probability = self.object_probability(part)
        count, width = probability.shape
        rows = self.gt_classes[:, None].expand_as(probability)
        table = probability.new_zeros((self.num_classes, width))
        if not self.last_write:
            return table.scatter_reduce_(0, rows, probability, "amax").t()
        order = torch.arange(1, count + 1, device=table.device, dtype=table.dtype)[:, None]
        last = table.scatter_reduce_(0, rows, order * (probability > 0), "amax").long()
        return torch.cat([probability.new_zeros((1, width)), probability]).gather(0, last).t()


@torch.no_grad()
def found_objects(
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_classes: Tensor,
    num_classes: int,
    iou_threshold: float = 0.6,
    last_write: bool = False,
    elements_at_once: int | None = None,
) -> FoundObjects:
    """Return A_jc of an image, after finding t2_i = max_j IoU_ij of every object i.

    t2 is kept so far above t1 = `iou_threshold` that their difference does not vanish.

    Args:
        boxes: (R, 4) xyxy predicted boxes, pixels.
        gt_boxes: (M, 4) xyxy, pixels; gt_classes: (M,) int64 in [0, K).
        last_write: see FoundObjects.
        elements_at_once: size of the slices.
    """
    columns, rows = as_columns(boxes), as_rows(gt_boxes.to(boxes.dtype))
    count = len(gt_boxes)
    best = boxes.new_full((count, 1), iou_threshold + torch.finfo(boxes.dtype).eps)
    if count:
        for part in slices(len(boxes), count, boxes.device, elements=elements_at_once):
            iou = iou_table(rows, columns[:, :, part])
            torch.maximum(best, iou.amax(dim=1, keepdim=True), out=best)
    return FoundObjects(columns, rows, gt_classes, best, iou_threshold, num_classes, last_write)
