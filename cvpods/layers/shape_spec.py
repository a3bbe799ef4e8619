"""ShapeSpec: what is known of a feature map before it exists."""

from __future__ import annotations

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


def _make(channels: int, height: int, width: int, stride: int) -> ShapeSpec:
    return ShapeSpec(channels=channels, height=height, width=width, stride=stride)
