"""Reductions over pairs, box by box: values (P,) of pairs whose boxes are `segment` (P,) int64."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """(count,) sums; 0 where there is no pair."""
    return values.new_zeros(count).index_add(0, segment, values)


def segment_logsumexp(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """(count,) log of the sum of exp(values); a large negative number where there is no pair."""
    with torch.no_grad():
        top = values.new_zeros(count).scatter_reduce(0, segment, values, "amax", include_self=False)
    total = segment_sum((values - top[segment]).exp(), segment, count)
    return total.clamp(min=torch.finfo(values.dtype).tiny).log() + top


@torch.no_grad()
def segment_min_max(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Each value as a part of its box's range: (v - min + 1e-12) / (max - min + 1e-12), (P,).

    1 where all values of a box are equal, as a single one is.
    """
    low, high = (
        values.new_zeros(count).scatter_reduce(0, segment, values, end, include_self=False)[segment]
        for end in ("amin", "amax")
    )
    return (values - low + 1e-12) / (high - low + 1e-12)
