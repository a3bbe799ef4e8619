"""Slices of tables (boxes x locations), so that memory does not grow with their product."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Largest number of elements of a slice (2 and 64 MiB in float32), unless one row has more.
SLICE_ON_CPU = 2**19
SLICE_ON_GPU = 2**24


def slices(
    length: int, width: int, device: torch.device, at_least: int = 1, elements: int | None = None
) -> Iterator[slice]:
    """Return slices of `length` rows of `width` elements, each with a bounded number of elements.

    Args:
        at_least: smallest number of rows of a slice, even if they have more elements than the
            bound.
        elements: the bound; by default SLICE_ON_CPU or SLICE_ON_GPU, depending on the device.
    """
    if elements is None:
        elements = SLICE_ON_CPU if device.type == "cpu" else SLICE_ON_GPU
    step = max(at_least, elements // max(1, width))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
