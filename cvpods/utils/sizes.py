"""Sizes of scaled images."""

from __future__ import annotations


def shortest_edge_size(
    height: int, width: int, short_edge: float, max_size: float
) -> tuple[int, int]:
    """Return (height, width) with the short edge scaled to `short_edge`.

    The scale is smaller if the long edge would exceed `max_size`. Sizes are rounded half up, and
    are at least 1.
    """
    scale = min(short_edge / min(height, width), max_size / max(height, width))
    return scaled_size(height, width, scale)


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return (height, width) times `scale`, rounded half up, and at least 1."""
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
