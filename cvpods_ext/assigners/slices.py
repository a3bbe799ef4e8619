"""Overlaps of boxes, slice by slice of a table of boxes x locations."""

from __future__ import annotations

import torch
from torch import Tensor


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
