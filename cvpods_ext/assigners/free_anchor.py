"""Who may answer for which box in FreeAnchor (arXiv:1909.02466): bags, and objects found.

Tables of boxes x anchors are made in slices, so that memory does not grow with their product.
Inside a slice the work is whole-tensor arithmetic; nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# Elements of one slice: what fits the cache of a CPU core; on a GPU 64 MiB a table in float32.
SLICE_ON_CPU = 2**19
SLICE_ON_GPU = 2**24
# Neighbouring anchors that _top looks at together.
GROUP = 64


def slices(length: int, width: int, device: torch.device) -> Iterator[slice]:
    """Cut `length` rows of `width` elements each into slices of a bounded number of elements."""
    bound = SLICE_ON_CPU if device.type == "cpu" else SLICE_ON_GPU
    step = max(1, bound // max(1, width))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def slice_iou(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    """IoU (M, R) of boxes given by columns, (4, M, 1) and (4, 1, R); 0 for those without area.

    In place as far as it goes: this is where FreeAnchor's time is spent.
    """
    x1, y1, x2, y2 = boxes
    gt_x1, gt_y1, gt_x2, gt_y2 = gt_boxes
    width = torch.minimum(gt_x2, x2).sub_(torch.maximum(gt_x1, x1)).clamp_(min=0)
    height = torch.minimum(gt_y2, y2).sub_(torch.maximum(gt_y1, y1)).clamp_(min=0)
    intersection = width.mul_(height)
    union = ((gt_x2 - gt_x1) * (gt_y2 - gt_y1)) + ((x2 - x1) * (y2 - y1))
    union.sub_(intersection).clamp_(min=torch.finfo(union.dtype).tiny)
    return intersection.div_(union)


def _rows(boxes: Tensor) -> Tensor:
    """(M, 4) -> (4, M, 1)."""
    return boxes.t().contiguous()[:, :, None]


def _columns(boxes: Tensor) -> Tensor:
    """(R, 4) -> (4, 1, R)."""
    return boxes.t().contiguous()[:, None, :]


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
    rows, columns = _rows(gt_boxes), _columns(anchors)
    columns = F.pad(columns, (0, -len(anchors) % GROUP))
    bags = [gt_boxes.new_zeros((0, size), dtype=torch.int64)]
    for part in slices(len(gt_boxes), len(anchors), anchors.device):
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


class ObjectsFound:
    """Which objects the predicted boxes of one image find already; no gradient flows through it.

    P{j -> i} = clamp((IoU_ij - t1) / (t2_i - t1), 0, 1), IoU_ij of box i with predicted box j,
    t2_i = max_j IoU_ij, and A_jc = max of P{j -> i} over the boxes i of class c.

    Args:
        boxes: (R, 4) xyxy predicted boxes, pixels.
        gt_boxes: (M, 4) xyxy, pixels; gt_classes: (M,) int64 in [0, K).
        iou_threshold: t1; below it a predicted box finds nothing.
        last_write: A_jc of the last box of class c with P > 0 instead of the maximum (cvpods).
    """

    @torch.no_grad()
    def __init__(
        self,
        boxes: Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor,
        num_classes: int,
        iou_threshold: float = 0.6,
        last_write: bool = False,
    ) -> None:
        self.boxes = _columns(boxes)
        self.gt_boxes = _rows(gt_boxes.to(boxes.dtype))
        self.gt_classes = gt_classes
        self.num_classes = num_classes
        self.iou_threshold = iou_threshold
        self.last_write = last_write
        self.best_iou = self._best_iou()

    def __len__(self) -> int:
        """M."""
        return len(self.gt_classes)

    def _best_iou(self) -> Tensor:
        """t2 (M, 1); never so close to t1 that their difference vanishes."""
        eps = torch.finfo(self.boxes.dtype).eps
        best = self.boxes.new_full((len(self), 1), self.iou_threshold + eps)
        if len(self):
            for part in slices(self.boxes.shape[2], len(self), self.boxes.device):
                iou = slice_iou(self.gt_boxes, self.boxes[:, :, part])
                torch.maximum(best, iou.amax(dim=1, keepdim=True), out=best)
        return best

    @torch.no_grad()
    def per_box(self, part: slice) -> Tensor:
        """P (M, r) of the anchors in `part`."""
        iou = slice_iou(self.gt_boxes, self.boxes[:, :, part])
        return iou.sub_(self.iou_threshold).div_(self.best_iou - self.iou_threshold).clamp_(0, 1)

    @torch.no_grad()
    def per_class(self, part: slice) -> Tensor:
        """A (r, K) of the anchors in `part`."""
        found = self.per_box(part)
        table = found.new_zeros((self.num_classes, found.shape[1]))
        rows = self.gt_classes[:, None].expand_as(found)
        if not self.last_write:
            return table.scatter_reduce_(0, rows, found, "amax").t()
        order = torch.arange(1, len(self) + 1, device=found.device, dtype=found.dtype)[:, None]
        last = table.scatter_reduce_(0, rows, order * (found > 0), "amax").long()
        return torch.cat([found.new_zeros((1, found.shape[1])), found]).gather(0, last).t()
