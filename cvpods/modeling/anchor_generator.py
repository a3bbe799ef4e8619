"""Priors of dense detectors: anchor boxes and points on the grid of each feature map."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cvpods.layers import ShapeSpec
from cvpods.layers.shape_spec import strides_of
from cvpods.structures import Boxes
from cvpods.utils.errors import ConfigError


def grid_points(
    height: int, width: int, stride: int, offset: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the points ((i + offset) * stride, (j + offset) * stride) of a map, row by row.

    Returns:
        (H * W, 2) float32 (x, y) in pixels of the padded input.
    """
    ys = (torch.arange(height, dtype=torch.float32, device=device) + offset) * stride
    xs = (torch.arange(width, dtype=torch.float32, device=device) + offset) * stride
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([x.reshape(-1), y.reshape(-1)], dim=1)


def make_cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Return anchors around the origin, size-major: area size^2, height / width = ratio.

    Returns:
        (len(sizes) * len(aspect_ratios), 4) corners in pixels.
    """
    anchors = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = math.sqrt(size**2 / ratio)
            height = ratio * width
            anchors.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(anchors, dtype=torch.float32)


def make_rounded_cell_anchors(
    sizes: Sequence[float], aspect_ratios: Sequence[float], stride: int
) -> Tensor:
    """Return anchors around the origin as Faster R-CNN's first code makes them.

    They differ from make_cell_anchors: the sides of a stride x stride window of every ratio are
    rounded to whole pixels, then scaled to the size.
    """
    anchors = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = round(math.sqrt(stride**2 / ratio))
            height = round(width * ratio)
            half_width, half_height = width * size / stride / 2, height * size / stride / 2
            anchors.append([-half_width, -half_height, half_width, half_height])
    return torch.tensor(anchors, dtype=torch.float32)


class BufferList(nn.Module):
    """List of buffers named "0", "1", ..."""

    def __init__(self, buffers: Sequence[Tensor], persistent: bool = True) -> None:
        super().__init__()
        for i, buffer in enumerate(buffers):
            self.register_buffer(str(i), buffer, persistent=persistent)
        self.length = len(buffers)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        return getattr(self, str(range(len(self))[index]))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))


class AnchorGrid(nn.Module):
    """Anchor boxes of every level.

    Args:
        sizes: anchor sides in pixels, for each level, or one list for all levels.
        aspect_ratios: height / width, for each level, or one list for all levels.
        strides: of each level.
        offset: centre of the first anchor, in strides.
        persistent: keep the cell anchors in the state dict, as cvpods' RetinaNet does.
        rounded: see make_rounded_cell_anchors.
        whole_corners: round the corners of the anchors around a centre to whole pixels.
        shift: pixels by which all centres lie further right and down.

    Raises:
        ConfigError: offset lies outside [0, 1), or a list does not fit the number of levels.
    """

    box_dim = 4

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[Sequence[float]],
        strides: Sequence[int],
        offset: float = 0.0,
        persistent: bool = True,
        rounded: bool = False,
        whole_corners: bool = False,
        shift: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= offset < 1.0:
            raise ConfigError(f"ANCHOR_GENERATOR.OFFSET must lie in [0, 1); got {offset}.")
        self.strides = list(strides)
        self.offset = offset
        self.shift = shift
        sizes = _per_level("SIZES", sizes, len(strides))
        aspect_ratios = _per_level("ASPECT_RATIOS", aspect_ratios, len(strides))
        cells = [
            make_rounded_cell_anchors(s, r, stride) if rounded else make_cell_anchors(s, r)
            for s, r, stride in zip(sizes, aspect_ratios, strides, strict=True)
        ]
        if whole_corners:
            cells = [cell.round() for cell in cells]
        self.cell_anchors = BufferList(cells, persistent=persistent)

    @property
    def num_cell_anchors(self) -> list[int]:
        """Return the number of anchors per location, for each level."""
        return [len(cell) for cell in self.cell_anchors]

    def count(self, height: int, width: int) -> list[int]:
        """Return the number of anchors of each level for an image of this size in pixels."""
        return [
            math.ceil(height / stride) * math.ceil(width / stride) * number
            for stride, number in zip(self.strides, self.num_cell_anchors, strict=True)
        ]

    def grid(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the anchors (H * W * A, 4) of each feature map (N, C, H, W)."""
        anchors = []
        for feature, stride, cell in zip(features, self.strides, self.cell_anchors, strict=True):
            height, width = feature.shape[-2:]
            points = grid_points(height, width, stride, self.offset, cell.device)
            shifts = torch.cat([points, points], dim=1) + self.shift
            anchors.append((shifts[:, None] + cell).reshape(-1, 4))
        return anchors

    def forward(self, features: Sequence[Tensor]) -> Any:
        return self.grid(features)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # Files of other frameworks hold no anchors; the module makes its own.
        for name, cell in self.state_dict().items():
            state_dict.setdefault(f"{prefix}{name}", cell)
        super()._load_from_state_dict(state_dict, prefix, *args)


class PointGrid(nn.Module):
    """Points of every level, `num_shifts` at each location."""

    def __init__(self, *, strides: Sequence[int], offset: float = 0.0, num_shifts: int = 1) -> None:
        super().__init__()
        self.strides = list(strides)
        self.offset = offset
        self.num_shifts = num_shifts

    @property
    def num_cell_shifts(self) -> list[int]:
        """Return the number of points per location, for each level."""
        return [self.num_shifts] * len(self.strides)

    def grid(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the points (H * W * num_shifts, 2) of each feature map (N, C, H, W)."""
        points = []
        for feature, stride in zip(features, self.strides, strict=True):
            height, width = feature.shape[-2:]
            level = grid_points(height, width, stride, self.offset, feature.device)
            points.append(level.repeat_interleave(self.num_shifts, dim=0))
        return points

    def forward(self, features: Sequence[Tensor]) -> Any:
        return self.grid(features)


class DefaultAnchorGenerator(AnchorGrid):
    """Anchors as cvpods builds them: from cfg.MODEL.ANCHOR_GENERATOR, as Boxes for every image."""

    def __init__(self, cfg: Any, input_shape: Sequence[ShapeSpec]) -> None:
        generator = cfg.MODEL.ANCHOR_GENERATOR
        super().__init__(
            sizes=generator.SIZES,
            aspect_ratios=generator.ASPECT_RATIOS,
            strides=strides_of(input_shape),
            offset=generator.OFFSET,
            rounded=generator.get("ROUNDED", False),
            whole_corners=generator.get("WHOLE_CORNERS", False),
        )

    def forward(self, features: Sequence[Tensor]) -> list[list[Boxes]]:
        """Return Boxes of length H * W * A by [image][level]."""
        anchors = self.grid(features)
        return [[Boxes(level.clone()) for level in anchors] for _ in range(len(features[0]))]


class ShiftGenerator(PointGrid):
    """Points as cvpods builds them: from cfg.MODEL.SHIFT_GENERATOR, for every image."""

    def __init__(self, cfg: Any, input_shape: Sequence[ShapeSpec]) -> None:
        generator = cfg.MODEL.SHIFT_GENERATOR
        super().__init__(
            strides=strides_of(input_shape),
            offset=generator.OFFSET,
            num_shifts=generator.NUM_SHIFTS,
        )

    def forward(self, features: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return points (H * W * NUM_SHIFTS, 2) by [image][level]."""
        points = self.grid(features)
        return [copy.deepcopy(points) for _ in range(len(features[0]))]


def _per_level(key: str, values: Sequence[Sequence[float]], levels: int) -> list[Sequence[float]]:
    if len(values) == 1:
        return list(values) * levels
    if len(values) != levels:
        raise ConfigError(
            f"ANCHOR_GENERATOR.{key} must hold 1 list, or one per level ({levels}); got "
            f"{len(values)}."
        )
    return list(values)
