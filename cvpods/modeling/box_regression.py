"""Encodings of boxes that detectors regress: deltas to an anchor, distances to a point."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cvpods.structures import geometry

# Decoded sizes stay below 1000 / 16 = 62.5 times the anchor's.
DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)


class Box2BoxTransform:
    """Encoding by R-CNN's deltas (arXiv:1311.2524, app. C): shift of the centre, log size ratio.

    The shift is in units of the anchor's size.

    Args:
        weights: factors of (dx, dy, dw, dh).
        scale_clamp: upper limit of dw and dh when decoding.
        add_ctr_clamp, ctr_clamp: limit the decoded centre shift to `ctr_clamp` pixels (YOLOF).
    """

    def __init__(
        self,
        weights: Sequence[float],
        scale_clamp: float = DEFAULT_SCALE_CLAMP,
        add_ctr_clamp: bool = False,
        ctr_clamp: float = 32.0,
    ) -> None:
        self.weights = tuple(weights)
        self.scale_clamp = scale_clamp
        self.add_ctr_clamp = add_ctr_clamp
        self.ctr_clamp = ctr_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor, strict: bool = True) -> Tensor:
        """Return the deltas (..., 4) that turn `src_boxes` (..., 4) into `target_boxes` (..., 4).

        Args:
            strict: check that source boxes have a width, which waits for the device.

        Raises:
            AssertionError: a source box has no width; the type is that of cvpods.
        """
        src_size, target_size = geometry.sizes(src_boxes), geometry.sizes(target_boxes)
        if strict and not (src_size[..., 0] > 0).all():
            raise AssertionError(
                "The source boxes of Box2BoxTransform are not valid: their width must be above 0."
            )
        shift = (geometry.centers(target_boxes) - geometry.centers(src_boxes)) / src_size
        deltas = (*shift.unbind(-1), *torch.log(target_size / src_size).unbind(-1))
        return torch.stack([d * w for d, w in zip(deltas, self.weights, strict=True)], dim=-1)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor, strict: bool = True) -> Tensor:
        """Return boxes (..., C * 4) from deltas (..., C * 4) to `boxes` (..., 4), C >= 1.

        Args:
            strict: check that deltas are finite, which waits for the device.

        Raises:
            AssertionError: a delta is infinite or NaN; the type is that of cvpods.
        """
        if strict and not torch.isfinite(deltas).all():
            raise AssertionError(
                "Box regression deltas are infinite or NaN: the weights are damaged, or the "
                "training has diverged."
            )
        size = geometry.sizes(boxes)[..., None, :]
        # Not centers(): another rounding would move detections by a unit in the last place.
        center = boxes[..., None, :2] + size / 2
        grouped = deltas.unflatten(-1, (-1, 4)).to(boxes.dtype)
        dx, dy, dw, dh = (d / w for d, w in zip(grouped.unbind(-1), self.weights, strict=True))
        shift = torch.stack([dx, dy], dim=-1) * size
        if self.add_ctr_clamp:
            shift = shift.clamp(min=-self.ctr_clamp, max=self.ctr_clamp)
        half = torch.stack([dw, dh], dim=-1).clamp(max=self.scale_clamp).exp() * size / 2
        decoded = geometry.boxes_around(center + shift, torch.cat([half, half], dim=-1))
        return decoded.flatten(-2)


class Shift2BoxTransform:
    """Encoding by FCOS' distances (arXiv:1904.01355, Eq. 1) from a point: left, top, right, bottom.

    Args:
        weights: factors of (left, top, right, bottom).
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = tuple(weights)

    def get_deltas(self, shifts: Tensor, boxes: Tensor) -> Tensor:
        """Return the distances (..., 4) of points `shifts` (..., 2) to the sides of `boxes`."""
        deltas = geometry.distances_to_sides(shifts, boxes)
        return deltas * deltas.new_tensor(self.weights)

    def apply_deltas(self, deltas: Tensor, shifts: Tensor) -> Tensor:
        """Return the boxes (..., 4) whose sides lie `deltas` (..., 4) from points `shifts`."""
        return geometry.boxes_around(shifts, deltas / deltas.new_tensor(self.weights))
