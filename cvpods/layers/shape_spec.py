"""ShapeSpec: channels, size and stride of a feature map that does not exist yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class _ShapeSpec(NamedTuple):
    channels: int | None
    height: int | None
    width: int | None
    stride: int | None


class ShapeSpec(_ShapeSpec):
    """Channels, height, width and stride of a feature map; each may be None."""

    def __new__(
        cls,
        *,
        channels: int | None = None,
        height: int | None = None,
        width: int | None = None,
        stride: int | None = None,
    ) -> ShapeSpec:
        return super().__new__(cls, channels, height, width, stride)

    def __reduce__(self) -> tuple:
        return _make, tuple(self)


def strides_of(shapes: Iterable[ShapeSpec]) -> list[int]:
    """Return the strides of feature maps.

    Raises:
        ValueError: a stride is not known.
    """
    strides = []
    for shape in shapes:
        if shape.stride is None:
            raise ValueError(f"Feature maps must have a known stride; got {shape!r}.")
        strides.append(shape.stride)
    return strides


def channels_of(shape: ShapeSpec) -> int:
    """Return the channels of a feature map.

    Raises:
        ValueError: they are not known.
    """
    if shape.channels is None:
        raise ValueError(f"A feature map must have known channels; got {shape!r}.")
    return shape.channels


def _make(
    channels: int | None, height: int | None, width: int | None, stride: int | None
) -> ShapeSpec:
    return ShapeSpec(channels=channels, height=height, width=width, stride=stride)
