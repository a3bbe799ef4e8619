"""Conventions for the far corner (x2, y2) of a box: where the box ends, or its last pixel.

maskrcnn-benchmark, in which the authors of FreeAnchor and ATSS worked, takes (x2, y2) as the last
pixel inside a box: widths are x2 - x1 + 1. This project stores such a box (x1, y1, x2, y2) as
(x1, y1, x2 + 1, y2 + 1); areas, IoU, box coder and NMS then compute the same. A few steps do not:

- Scaling multiplies x2, not x2 + 1.
- Clipping moves both corners to the last pixel of the image at most, so that a box keeps a pixel.
- Detections are not clipped again after they are scaled to the original image.
- ATSS measures distances to the centres of the outermost pixels: centerness and GIoU are those of
  boxes half a pixel smaller on every side, and a centre is inside if all distances exceed 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cvpods.structures import geometry


@dataclass(frozen=True)
class PixelConvention:
    """Steps on boxes that differ between CONTINUOUS and LAST_PIXEL.

    Boxes are (..., 4) xyxy in pixels, as this project stores them.

    Args:
        last: width in pixels of the last pixel, which the stored (x2, y2) contains: 0 or 1.
        inside: pixels by which a centre must lie inside a box in ATSS.
        clips_scaled: detections are clipped again after they are scaled to the original image.
    """

    last: float
    inside: float
    clips_scaled: bool

    @staticmethod
    def from_config(cfg: Any) -> PixelConvention:
        """Return the convention that cfg.MODEL.PLUS_ONE names."""
        return PixelConvention.of(cfg.MODEL.get("PLUS_ONE", False))

    @staticmethod
    def of(plus_one: bool) -> PixelConvention:
        """Return LAST_PIXEL if `plus_one`, otherwise CONTINUOUS."""
        return LAST_PIXEL if plus_one else CONTINUOUS

    @property
    def corner(self) -> list[float]:
        """Return (0, 0, last, last), which a stored box adds to the corners of its pixels."""
        return [0.0, 0.0, self.last, self.last]

    def scale(self, boxes: Tensor, scale_x: float, scale_y: float) -> Tensor:
        """Return the boxes (..., 4) in an image whose sides are scaled by these factors."""
        corner = boxes.new_tensor(self.corner)
        return (boxes - corner) * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y]) + corner

    def clip(self, boxes: Tensor, height: float | Tensor, width: float | Tensor) -> Tensor:
        """Return boxes (..., 4) clipped to an image of this size; tensors (...) give each its own.

        In LAST_PIXEL, every box keeps at least one pixel.
        """
        corner = boxes.new_tensor(self.corner)
        farthest = geometry.image_corners(boxes, height, width) - self.last + corner
        return boxes.maximum(corner).minimum(farthest)

    def inset(self, boxes: Tensor) -> Tensor:
        """Return the boxes (..., 4) between the centres of the outermost pixels."""
        return geometry.inset(boxes, self.last / 2) if self.last else boxes

    def outset(self, boxes: Tensor) -> Tensor:
        """Return the boxes (..., 4) whose outermost pixels have their centres on these sides."""
        return geometry.inset(boxes, -self.last / 2) if self.last else boxes


CONTINUOUS = PixelConvention(last=0.0, inside=0.0, clips_scaled=True)
LAST_PIXEL = PixelConvention(last=1.0, inside=0.5 + 0.01, clips_scaled=False)
