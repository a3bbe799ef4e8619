"""Boxes of one image, formats of boxes, and functions on pairs of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum, unique
from typing import Any, TypeVar

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


# A list or tuple of 4 numbers, or an (N, 4) array or tensor.
AnyBoxes = TypeVar("AnyBoxes", list, tuple, np.ndarray, Tensor)


@unique
class BoxMode(IntEnum):
    """Formats of a box; `convert` translates one into another."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: AnyBoxes, from_mode: BoxMode, to_mode: BoxMode) -> AnyBoxes:
        """Convert one box (list or tuple of 4) or many ((N, 4) array or tensor).

        The result has the type of the input.

        Raises:
            NotImplementedError: a format is not XYXY_ABS or XYWH_ABS.
            ValueError: a list or tuple does not have 4 numbers.
        """
        if from_mode == to_mode:
            return box
        if {from_mode, to_mode} != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            raise NotImplementedError(
                f"BoxMode.convert supports XYXY_ABS and XYWH_ABS; got {from_mode!r} to {to_mode!r}."
            )
        sign = 1 if from_mode == BoxMode.XYWH_ABS else -1
        if isinstance(box, (list, tuple)):
            if len(box) != 4:
                raise ValueError(f"A box must have 4 numbers; got {len(box)}: {box!r}.")
            x, y, a, b = box
            converted: Any = type(box)
            return converted((x, y, a + sign * x, b + sign * y))
        result: Any = box.clone() if isinstance(box, Tensor) else np.array(box)
        result[..., 2] += sign * result[..., 0]
        result[..., 3] += sign * result[..., 1]
        return result


class NonFiniteBoxes(FloatingPointError, AssertionError):  # noqa: N818 - says what is wrong
    """Error for boxes that cannot be clipped; an AssertionError too, as cvpods raises."""


def check_finite(boxes: Tensor) -> None:
    """Raise NonFiniteBoxes if a coordinate of `boxes` is infinite or NaN."""
    if not torch.isfinite(boxes).all():
        raise NonFiniteBoxes(
            "Boxes are infinite or NaN: the weights are damaged, the training has diverged, or "
            "the box outputs overflow."
        )


class Boxes:
    """N boxes as corners (x1, y1, x2, y2) in pixels; `tensor` is float32 of shape (N, 4)."""

    def __init__(self, tensor: Tensor | Sequence) -> None:
        device = tensor.device if isinstance(tensor, Tensor) else torch.device("cpu")
        tensor = torch.as_tensor(tensor, dtype=torch.float32, device=device)
        if tensor.numel() == 0:
            tensor = tensor.reshape(0, 4)
        if tensor.dim() != 2 or tensor.shape[1] != 4:
            raise ValueError(f"Boxes must have the shape (N, 4); got {tuple(tensor.shape)}.")
        self.tensor = tensor

    def clone(self) -> Boxes:
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> Boxes:
        return Boxes(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def area(self) -> Tensor:
        """Return the areas (N,) in square pixels."""
        return geometry.areas(self.tensor)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip in place to an image of (height, width).

        Raises:
            NonFiniteBoxes: a coordinate is infinite or NaN.
        """
        check_finite(self.tensor)
        height, width = box_size
        self.tensor.copy_(geometry.clip(self.tensor, height, width))

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Return (N,) bool: whether boxes are wider and higher than `threshold` pixels."""
        return (geometry.sizes(self.tensor) > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """Return (N,) bool: whether boxes lie inside an image of (height, width).

        They may reach `boundary_threshold` pixels beyond its border.
        """
        height, width = box_size
        limit = self.tensor.new_tensor([width, height]) + boundary_threshold
        after = (self.tensor[:, :2] >= -boundary_threshold).all(dim=1)
        return after & (self.tensor[:, 2:] < limit).all(dim=1)

    def get_centers(self) -> Tensor:
        """Return the centres (x, y), shape (N, 2)."""
        return geometry.centers(self.tensor)

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
    """Return the intersection (N, M) of every pair, divided by the area of the box of `boxes`.

    Args:
        labels: (N,) labels of `gt`; rows of other labels than `ignore_label` become 0.
    """
    intersection = geometry.intersections(gt.tensor[:, None], boxes.tensor)
    ioa = (intersection / boxes.area().clamp(min=geometry.EPS)).clamp(max=1)
    if labels is None:
        return ioa
    return ioa * (labels == ignore_label)[:, None]


def matched_boxlist_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return the IoU (N,) of the i-th box of one with the i-th box of the other.

    Raises:
        ValueError: their numbers of boxes differ.
    """
    if len(boxes1) != len(boxes2):
        raise ValueError(
            f"Both must hold the same number of boxes; got {len(boxes1)} and {len(boxes2)}."
        )
    return geometry.iou(boxes1.tensor, boxes2.tensor)


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Return the corners (..., 4) of boxes given by centre and size (..., 4)."""
    half = boxes[..., 2:] / 2
    return geometry.boxes_around(boxes[..., :2], torch.cat([half, half], dim=-1))


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Return centre and size (..., 4) of boxes given by their corners (..., 4)."""
    return torch.cat([geometry.centers(boxes), geometry.sizes(boxes)], dim=-1)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the GIoU (N, M) of every pair of boxes (N, 4) and (M, 4)."""
    return geometry.generalized_iou(boxes1[:, None], boxes2)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Return the boxes (N, 4) around masks (N, H, W), by torchvision.ops.masks_to_boxes."""
    from torchvision import ops

    return ops.masks_to_boxes(masks)
