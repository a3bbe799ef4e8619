"""Tables of boxes x locations in slices, so that memory does not grow with their product."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Elements of one slice (float32: 2 and 64 MiB a table), but never less than one row.
SLICE_ON_CPU = 2**19
SLICE_ON_GPU = 2**24


def slices(length: int, width: int, device: torch.device, at_least: int = 1) -> Iterator[slice]:
    """Cut `length` rows of `width` elements into slices of a bounded number of elements.

    The bound is SLICE_ON_CPU or SLICE_ON_GPU elements, or `at_least` rows where those are more.
    """
    bound = SLICE_ON_CPU if device.type == "cpu" else SLICE_ON_GPU
    step = max(at_least, bound // max(1, width))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def slice_iou(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    """IoU (M, R) of boxes given by columns, (4, M, 1) and (4, 1, R); 0 for those without area.

    In place as far as it goes: this is where the losses of bags spend their time.
    """
    x1, y1, x2, y2 = boxes
    gt_x1, gt_y1, gt_x2, gt_y2 = gt_boxes
    width = torch.minimum(gt_x2, x2).sub_(torch.maximum(gt_x1, x1)).clamp_(min=0)
    height = torch.minimum(gt_y2, y2).sub_(torch.maximum(gt_y1, y1)).clamp_(min=0)
    intersection = width.mul_(height)
    union = ((gt_x2 - gt_x1) * (gt_y2 - gt_y1)) + ((x2 - x1) * (y2 - y1))
    union.sub_(intersection).clamp_(min=torch.finfo(union.dtype).tiny)
    return intersection.div_(union)


def as_rows(boxes: Tensor) -> Tensor:
    """(M, 4) -> (4, M, 1)."""
    return boxes.t().contiguous()[:, :, None]


def as_columns(boxes: Tensor) -> Tensor:
    """(R, 4) -> (4, 1, R)."""
    return boxes.t().contiguous()[:, None, :]
