"""Count of objects that training assigns no location to, with one warning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from loguru import logger
from torch import Tensor

from cvpods.structures import geometry
from cvpods.utils import comm

# The count is read after 4, 8, 16, ... passes, because each reading waits for the device.
FIRST_READING, LAST_READING = 4, 1024
# Warn if at least this share of at least AT_LEAST objects is unassigned.
SHARE = 0.05
AT_LEAST = 10


class UnassignedObjects:
    """Counter of objects without a location, on the device of the boxes.

    The detector learns nothing from such an object, and the loss does not show it.
    """

    def __init__(self) -> None:
        self.passes = self.objects = 0
        self.is_done = False
        self._found: Tensor | None = None

    def add(self, boxes: Tensor, has_location: Tensor, stride: float) -> None:
        """Count the objects of an image.

        Args:
            boxes: (M, 4) xyxy, pixels.
            has_location: (M,) bool.
            stride: of the finest level, pixels.
        """
        if self.is_done:
            return
        small = geometry.sizes(boxes).amin(dim=1) < stride
        counts = torch.stack([(~has_location).sum(), (~has_location & small).sum()])
        self._found = counts if self._found is None else self._found + counts
        self.objects += len(boxes)
        self.stride = stride

    def end_pass(self) -> None:
        """Count a forward pass of training; read the counts, and warn, after some of the passes."""
        if self.is_done:
            return
        self.passes += 1
        if self.passes >= FIRST_READING and self.passes & (self.passes - 1) == 0:
            self._warn()
            self.is_done |= self.passes >= LAST_READING

    def _warn(self) -> None:
        if self._found is None or self.objects < AT_LEAST:
            return
        without, small = self._found.tolist()
        if without < SHARE * self.objects:
            return
        self.is_done = True
        if comm.is_main_process():
            logger.warning(
                f"{without:,} of {self.objects:,} objects in the first {self.passes} forward "
                "passes have no location assigned; the detector learns nothing from them. "
                f"{small:,} of them are smaller than the finest stride, {self.stride:g} pixels, in "
                "the resized image; the others are covered by other objects or fit no level. "
                "Train on larger images (INPUT.AUG.TRAIN_PIPELINES) or on crops of them, or add a "
                "finer level to IN_FEATURES."
            )


def assigned_boxes(gt_index: Tensor, num_boxes: int) -> Tensor:
    """Return (M,) bool: whether each box has a location. It does not wait for the device.

    Args:
        gt_index: (R,) the box of each location, below 0 for locations without one.
    """
    has_location = torch.zeros(num_boxes + 1, dtype=torch.bool, device=gt_index.device)
    return has_location.scatter_(0, (gt_index + 1).clamp(min=0), True)[1:]


@torch.no_grad()
def boxes_with_point(boxes: Tensor, grids: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Return (M,) bool: whether a point of some level lies strictly inside each box (M, 4).

    Args:
        grids: points (R_l, 2) of each level, row by row; rows and columns inside are counted.
        strides: of the levels, pixels.
    """
    has_point = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for points, stride in zip(grids, strides, strict=True):
        first, last = points[0], points[-1]  # (x, y) each
        low = ((boxes[:, :2] - first) / stride).floor() + 1
        high = ((boxes[:, 2:] - first) / stride).ceil() - 1
        inside = torch.minimum(high, (last - first) / stride) >= low.clamp(min=0)
        has_point |= inside.all(dim=1)
    return has_point
