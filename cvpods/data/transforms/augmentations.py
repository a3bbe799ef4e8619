"""Transform generators of sizes, flips, crops and lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cvpods.data.registry import TRANSFORMS
from cvpods.data.transforms.transform import (
    Annotations,
    ComposeTransform,
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    ResizeTransform,
    SizeKeepingGen,
    Transform,
    Transformed,
    TransformGen,
    VFlipTransform,
)
from cvpods.structures import BoxMode, PixelConvention
from cvpods.utils.errors import ConfigError
from cvpods.utils.sizes import scaled_size, shortest_edge_size


def _draw_size(sizes: tuple[int, ...], style: str) -> int:
    if style == "range":
        return int(np.random.randint(sizes[0], sizes[1] + 1))
    return int(np.random.choice(sizes))


def _fixed_size(sizes: tuple[int, ...]) -> int | None:
    """Return the size if there is only one to draw from, otherwise None."""
    return sizes[0] if len(set(sizes)) == 1 else None


def _check_sizes(name: str, sizes: int | Sequence[int], style: str) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if style not in ("range", "choice"):
        raise ConfigError(f"{name}: sample_style must be 'range' or 'choice'; got {style!r}.")
    if style == "range" and len(sizes) == 1:
        sizes = sizes * 2
    if not sizes or (style == "range" and (len(sizes) != 2 or sizes[0] > sizes[1])):
        raise ConfigError(
            f"{name}: '{style}' cannot draw from {sizes}; a range must be (min, max)."
        )
    return sizes


@TRANSFORMS.register()
class ResizeShortestEdge(TransformGen):
    """Resizing of the short edge to a drawn size, or of the long edge to max_size if it is longer.

    Args:
        short_edge_length: a size, sizes to choose from ("choice"), or (min, max) ("range", whole
            numbers, both included); 0 does not change the image.
        plus_one: scale boxes by LAST_PIXEL; defaults to MODEL.PLUS_ONE.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = 2**31,
        sample_style: str = "range",
        interp: Any = None,
        plus_one: bool = False,
    ) -> None:
        self.pixels = PixelConvention.of(plus_one)
        self.short_edge_length = _check_sizes("ResizeShortestEdge", short_edge_length, sample_style)
        self.max_size = max_size
        self.sample_style = sample_style

    def get_transform(self, img: np.ndarray, annotations: Annotations | None = None) -> Transform:
        h, w = img.shape[:2]
        size = _draw_size(self.short_edge_length, self.sample_style)
        if size == 0:
            return NoOpTransform()
        return ResizeTransform(h, w, *self._size(h, w, size), pixels=self.pixels)

    def output_size(self, height: int, width: int) -> tuple[int, int] | None:
        size = _fixed_size(self.short_edge_length)
        if size is None:
            return None
        return self._size(height, width, size) if size else (height, width)

    def _size(self, height: int, width: int, short_edge: int) -> tuple[int, int]:
        return shortest_edge_size(height, width, short_edge, self.max_size)


@TRANSFORMS.register()
class ResizeLongestEdge(TransformGen):
    """Resizing of the long edge to a drawn size; see ResizeShortestEdge for the arguments."""

    def __init__(
        self,
        long_edge_length: int | Sequence[int],
        sample_style: str = "range",
        interp: Any = None,
        plus_one: bool = False,
    ) -> None:
        self.pixels = PixelConvention.of(plus_one)
        self.long_edge_length = _check_sizes("ResizeLongestEdge", long_edge_length, sample_style)
        self.sample_style = sample_style

    def get_transform(self, img: np.ndarray, annotations: Annotations | None = None) -> Transform:
        h, w = img.shape[:2]
        size = _draw_size(self.long_edge_length, self.sample_style)
        if size == 0:
            return NoOpTransform()
        return ResizeTransform(h, w, *self._size(h, w, size), pixels=self.pixels)

    def output_size(self, height: int, width: int) -> tuple[int, int] | None:
        size = _fixed_size(self.long_edge_length)
        if size is None:
            return None
        return self._size(height, width, size) if size else (height, width)

    def _size(self, height: int, width: int, long_edge: int) -> tuple[int, int]:
        return scaled_size(height, width, long_edge / max(height, width))


@TRANSFORMS.register()
class Resize(TransformGen):
    """Stretching to a fixed (height, width), or to a square."""

    def __init__(
        self, shape: int | Sequence[int], interp: Any = None, plus_one: bool = False
    ) -> None:
        self.pixels = PixelConvention.of(plus_one)
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)

    def get_transform(self, img: np.ndarray, annotations: Annotations | None = None) -> Transform:
        h, w = img.shape[:2]
        return ResizeTransform(h, w, *self.output_size(h, w), pixels=self.pixels)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return self.shape[0], self.shape[1]


@TRANSFORMS.register()
class ResizeToFit(Resize):
    """Scaling to the largest size inside (height, width), with the aspect ratio kept."""

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        scale = min(self.shape[0] / height, self.shape[1] / width)
        return scaled_size(height, width, scale)


@TRANSFORMS.register()
class RandomFlip(SizeKeepingGen):
    """Horizontal or vertical mirroring with probability `prob`."""

    def __init__(self, prob: float = 0.5, horizontal: bool = True, vertical: bool = False) -> None:
        if horizontal == vertical:
            raise ConfigError(
                "RandomFlip: exactly one of horizontal and vertical must be True; got "
                f"horizontal={horizontal!r}, vertical={vertical!r}."
            )
        self.prob, self.horizontal = prob, horizontal

    def get_transform(self, img: np.ndarray, annotations: Annotations | None = None) -> Transform:
        h, w = img.shape[:2]
        if np.random.rand() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(w) if self.horizontal else VFlipTransform(h)


@TRANSFORMS.register()
class RandomCrop(TransformGen):
    """Crop of a random window; objects whose centre lies outside are removed.

    Args:
        crop_type: "relative": crop_size times the image; "relative_range": between crop_size and 1
            times the image; "absolute": crop_size pixels, at most the image.
        crop_size: (height, width).
        strict_mode: draw the window around the centre of a random object, if the image has any.
    """

    def __init__(
        self, crop_type: str, crop_size: Sequence[float], strict_mode: bool = True
    ) -> None:
        if crop_type not in ("relative", "relative_range", "absolute"):
            raise ConfigError(
                f"RandomCrop: crop_type must be 'relative', 'relative_range' or 'absolute'; "
                f"got {crop_type!r}."
            )
        self.crop_type, self.crop_size, self.strict_mode = crop_type, crop_size, strict_mode

    def get_transform(self, img: np.ndarray, annotations: Annotations | None = None) -> Transform:
        size = np.array(img.shape[:2])
        crop = np.array(self.crop_size, dtype=float)
        if self.crop_type == "relative_range":
            crop = crop + np.random.rand(2) * (1 - crop)
        if self.crop_type != "absolute":
            crop = crop * size
        crop = np.clip((crop + 0.5).astype(int), 1, size)
        low, high = np.zeros(2, dtype=int), size - crop
        if self.strict_mode and annotations:
            x, y, w, h = _xywh_box(annotations[np.random.randint(len(annotations))])
            center = np.array([y + h / 2, x + w / 2])
            low = np.clip(np.floor(center - crop).astype(int) + 1, low, high)
            high = np.clip(np.floor(center).astype(int), low, high)
        y0, x0 = np.random.randint(low, high + 1)
        return CropTransform(int(x0), int(y0), int(crop[1]), int(crop[0]))


def _xywh_box(annotation: Mapping[str, Any]) -> list[float]:
    mode = annotation.get("bbox_mode", BoxMode.XYXY_ABS)
    return BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYWH_ABS)


@TRANSFORMS.register()
class Pad(TransformGen):
    """Padding at the right and bottom to at least (height, width)."""

    def __init__(self, size: Sequence[int], value: float = 0) -> None:
        self.size, self.value = tuple(size), value

    def get_transform(self, img: np.ndarray, annotations: Annotations | None = None) -> Transform:
        return PadTransform(0, 0, *self.output_size(*img.shape[:2]), self.value)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return max(height, self.size[0]), max(width, self.size[1])


@TRANSFORMS.register()
class OrderList(ComposeTransform):
    """All of `transforms`, in order."""

    def __init__(self, transforms: Sequence[TransformGen]) -> None:
        super().__init__(transforms)


@TRANSFORMS.register()
class ShuffleList(OrderList):
    """All of `transforms`, in random order."""

    def output_size(self, height: int, width: int) -> None:
        """Return None, because the order is random."""

    def __call__(
        self, img: np.ndarray, annotations: Annotations | None = None, **kwargs: Any
    ) -> Transformed:
        order = np.random.permutation(len(self.transforms))
        return ComposeTransform([self.transforms[i] for i in order])(img, annotations, **kwargs)


@TRANSFORMS.register()
class RandomList(OrderList):
    """`num_layers` of `transforms`, drawn without replacement."""

    def __init__(self, transforms: Sequence[TransformGen], num_layers: int = 1) -> None:
        super().__init__(transforms)
        if not 0 <= num_layers <= len(self.transforms):
            raise ConfigError(
                f"RandomList: num_layers must be from 0 to the number of transforms, "
                f"{len(self.transforms)}; got {num_layers}."
            )
        self.num_layers = num_layers

    def output_size(self, height: int, width: int) -> None:
        """Return None, because the order is random."""

    def __call__(
        self, img: np.ndarray, annotations: Annotations | None = None, **kwargs: Any
    ) -> Transformed:
        chosen = np.random.choice(len(self.transforms), self.num_layers, replace=False)
        return ComposeTransform([self.transforms[i] for i in chosen])(img, annotations, **kwargs)
