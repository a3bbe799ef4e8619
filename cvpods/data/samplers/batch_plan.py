"""How the images of one optimiser step are divided over processes and accumulation steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cvpods.utils.errors import ConfigError


@dataclass(frozen=True)
class BatchPlan:
    """`shares[rank][step]` images go through `rank` in accumulation step `step`.

    Every process takes the same number of steps, so that collective calls inside a forward pass
    match; shares differ by at most one image.
    """

    total: int
    shares: tuple[tuple[int, ...], ...]

    @classmethod
    def make(cls, total: int, per_device: int, world_size: int) -> BatchPlan:
        """Divide `total` images over `world_size` processes, at most `per_device` at once each.

        One pass may hold one image more where, otherwise, some process would have a step without
        an image (16 images, 3 processes, 1 at once: 6, 5 and 5 images in 5 steps).

        Raises:
            ConfigError: a number below 1, or fewer images than processes.
        """
        if min(total, per_device, world_size) < 1 or total < world_size:
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH {total} cannot be divided over {world_size} processes of at "
                f"most SOLVER.IMS_PER_DEVICE {per_device} images: every process needs one."
            )
        largest_share = math.ceil(total / world_size)
        steps = min(math.ceil(largest_share / per_device), total // world_size)
        per_rank = _split(total, world_size)
        return cls(total, tuple(tuple(_split(count, steps)) for count in per_rank))

    @property
    def steps(self) -> int:
        """Forward and backward passes per optimiser step."""
        return len(self.shares[0])

    def ranges(self, rank: int) -> list[range]:
        """Positions inside the step's batch that `rank` takes, for each accumulation step."""
        start = sum(sum(share) for share in self.shares[:rank])
        ranges = []
        for count in self.shares[rank]:
            ranges.append(range(start, start + count))
            start += count
        return ranges

    def describe(self) -> str:
        """One line for the log."""
        largest = max(max(share) for share in self.shares)
        accumulation = f", accumulated over {self.steps} passes" if self.steps > 1 else ""
        return (
            f"{self.total} images per optimiser step: {len(self.shares)} process(es) x at most "
            f"{largest} images at once{accumulation}."
        )


def _split(total: int, parts: int) -> list[int]:
    """Divide as evenly as whole numbers allow, larger parts first."""
    return [total // parts + (i < total % parts) for i in range(parts)]
