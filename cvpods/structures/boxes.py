"""Boxes: (N, 4) corners (x1, y1, x2, y2) in pixels, and functions on pairs of boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum, unique
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvpods.structures import geometry

__all__ = [
    "BoxMode",
    "Boxes",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "generalized_box_iou",
    "masks_to_boxes",
    "matched_boxlist_iou",
    "pairwise_ioa",
    "pairwise_iou",
]


@unique
class BoxMode(IntEnum):
    """Ways to write a box; `convert` goes from one to another."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: Any, from_mode: BoxMode, to_mode: BoxMode) -> Any:
        """Convert one box (list or tuple of 4) or many ((N, 4) array or tensor); same type out."""
        if from_mode == to_mode:
            return box
        if {from_mode, to_mode} != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            raise NotImplementedError(
                f"BoxMode.convert knows XYXY_ABS and XYWH_ABS, not {from_mode!r} to {to_mode!r}."
            )
        sign = 1 if from_mode == BoxMode.XYWH_ABS else -1
        if isinstance(box, (list, tuple)):
            if len(box) != 4:
                raise ValueError(f"A box has 4 numbers; got {len(box)}: {box!r}.")
            x, y, a, b = box
            return type(box)((x, y, a + sign * x, b + sign * y))
        result = box.clone() if isinstance(box, Tensor) else np.array(box)
        result[..., 2] += sign * result[..., 0]
        result[..., 3] += sign * result[..., 1]
        return result


class NonFiniteBoxes(FloatingPointError, AssertionError):  # noqa: N818 - says what is wrong
    """Boxes that cannot be clipped; an AssertionError too, as cvpods raises."""


class Boxes:
    """N boxes; `tensor` is float32 of shape (N, 4)."""

    def __init__(self, tensor: Tensor | Sequence) -> None:
        device = tensor.device if isinstance(tensor, Tensor) else torch.device("cpu")
        tensor = torch.as_tensor(tensor, dtype=torch.float32, device=device)
        if tensor.numel() == 0:
            tensor = tensor.reshape(0, 4)
        if tensor.dim() != 2 or tensor.shape[1] != 4:
            raise ValueError(f"Boxes need a tensor of shape (N, 4); got {tuple(tensor.shape)}.")
        self.tensor = tensor

    def clone(self) -> Boxes:
        return Boxes(self.tensor.clone())

    def to(self, device: Any) -> Boxes:
        return Boxes(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def area(self) -> Tensor:
        """(N,) areas in square pixels."""
        width, height = (self.tensor[:, 2:] - self.tensor[:, :2]).unbind(1)
        return width * height

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip in place to an image of (height, width)."""
        if not torch.isfinite(self.tensor).all():
            raise NonFiniteBoxes(
                "Boxes are infinite or NaN: the weights are damaged, the training has diverged, or "
                "the box outputs overflow."
            )
        height, width = box_size
        self.tensor[:, 0::2].clamp_(min=0, max=width)
        self.tensor[:, 1::2].clamp_(min=0, max=height)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """(N,) bool: wider and higher than `threshold` pixels."""
        return ((self.tensor[:, 2:] - self.tensor[:, :2]) > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """(N,) bool: inside an image of (height, width), `boundary_threshold` pixels overhang."""
        height, width = box_size
        limit = self.tensor.new_tensor([width, height]) + boundary_threshold
        after = (self.tensor[:, :2] >= -boundary_threshold).all(dim=1)
        return after & (self.tensor[:, 2:] < limit).all(dim=1)

    def get_centers(self) -> Tensor:
        """(N, 2) centres (x, y)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Scale coordinates in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @staticmethod
    def cat(boxes_list: Sequence[Boxes]) -> Boxes:
        if not boxes_list:
            return Boxes(torch.empty(0, 4))
        return Boxes(torch.cat([boxes.tensor for boxes in boxes_list]))

    def __getitem__(self, item: int | slice | Tensor) -> Boxes:
        if isinstance(item, int):
            return Boxes(self.tensor[item].view(1, 4))
        return Boxes(self.tensor[item])

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return the IoU (N, M) of every pair; 0 if both boxes have no area."""
    return geometry.iou(boxes1.tensor[:, None], boxes2.tensor)


def pairwise_ioa(
    gt: Boxes, boxes: Boxes, labels: Tensor | None = None, ignore_label: int = -1
) -> Tensor:
    """(N, M) intersection over the area of `boxes`; rows of gts not labelled ignore are 0."""
    left_top = torch.max(gt.tensor[:, None, :2], boxes.tensor[:, :2])
    right_bottom = torch.min(gt.tensor[:, None, 2:], boxes.tensor[:, 2:])
    intersection = (right_bottom - left_top).clamp(min=0).prod(dim=2)
    ioa = (intersection / boxes.area().clamp(min=torch.finfo(torch.float32).eps)).clamp(max=1)
    if labels is None:
        return ioa
    return ioa * (labels == ignore_label)[:, None]


def matched_boxlist_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(N,) IoU of the i-th box of one with the i-th box of the other."""
    if len(boxes1) != len(boxes2):
        raise ValueError(f"Both must hold as many boxes; got {len(boxes1)} and {len(boxes2)}.")
    left_top = torch.max(boxes1.tensor[:, :2], boxes2.tensor[:, :2])
    right_bottom = torch.min(boxes1.tensor[:, 2:], boxes2.tensor[:, 2:])
    intersection = (right_bottom - left_top).clamp(min=0).prod(dim=1)
    union = boxes1.area() + boxes2.area() - intersection
    return intersection / union.clamp(min=torch.finfo(torch.float32).eps)


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size -> corners."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the GIoU (N, M) of every pair of boxes (N, 4) and (M, 4)."""
    return geometry.generalized_iou(boxes1[:, None], boxes2)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Return the boxes (N, 4) around masks (N, H, W), by torchvision.ops.masks_to_boxes."""
    from torchvision import ops

    return ops.masks_to_boxes(masks)
