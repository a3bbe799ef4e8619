"""Reductions of values by segment: values (P,) that belong to `count` segments (boxes, images).

`segment` (P,) int64 names the segment of each value.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Return the sums (count,); an empty segment has 0."""
    return values.new_zeros(count).index_add(0, segment, values)


def segment_logsumexp(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Return log sum exp(values), (count,); an empty segment has a large negative number."""
    with torch.no_grad():
        top = values.new_zeros(count).scatter_reduce(0, segment, values, "amax", include_self=False)
    total = segment_sum((values - top[segment]).exp(), segment, count)
    return total.clamp(min=torch.finfo(values.dtype).tiny).log() + top


@torch.no_grad()
def segment_min_max(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Return (v - min + 1e-12) / (max - min + 1e-12), (P,), over the values of each segment.

    The result is 1 in a segment whose values are all equal, such as a single one.
    """
    low, high = (
        values.new_zeros(count).scatter_reduce(0, segment, values, end, include_self=False)[segment]
        for end in ("amin", "amax")
    )
    return (values - low + 1e-12) / (high - low + 1e-12)
