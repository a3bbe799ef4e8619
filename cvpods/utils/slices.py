"""Slices of a table of boxes x locations, so that memory does not grow with their product."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Elements of one slice (float32: 2 and 64 MiB a table), but never less than one row.
SLICE_ON_CPU = 2**19
SLICE_ON_GPU = 2**24


def slices(
    length: int, width: int, device: torch.device, at_least: int = 1, elements: int | None = None
) -> Iterator[slice]:
    """Cut `length` rows of `width` elements into slices of a bounded number of elements.

    Args:
        at_least: rows of a slice, even if they have more elements than the bound.
        elements: the bound; by default SLICE_ON_CPU or SLICE_ON_GPU, as the device is.
    """
    if elements is None:
        elements = SLICE_ON_CPU if device.type == "cpu" else SLICE_ON_GPU
    step = max(at_least, elements // max(1, width))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
