"""Division of the images of one optimiser step over processes and accumulation steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cvpods.utils.errors import ConfigError


@dataclass(frozen=True)
class BatchPlan:
    """Number of images for each process and accumulation step.

    Every process takes the same number of steps, so that collective calls inside a forward pass
    match; shares differ by at most one image.

    Attributes:
        total: images of one optimiser step.
        shares: `shares[rank][step]` images go through process `rank` in accumulation step `step`.
    """

    total: int
    shares: tuple[tuple[int, ...], ...]

    @classmethod
    def make(cls, total: int, per_device: int, world_size: int) -> BatchPlan:
        """Divide `total` images over `world_size` processes, at most `per_device` at once each.

        One pass may hold one image more if a process would otherwise have a step without an image
        (16 images, 3 processes, 1 at once: 6, 5 and 5 images in 5 steps).

        Raises:
            ConfigError: a number is below 1, or there are fewer images than processes.
        """
        if min(total, per_device, world_size) < 1 or total < world_size:
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH {total} cannot be divided over {world_size} processes of at "
                f"most SOLVER.IMS_PER_DEVICE {per_device} images: every process needs one."
            )
        largest_share = math.ceil(total / world_size)
        steps = min(math.ceil(largest_share / per_device), total // world_size)
        per_rank = _split_evenly(total, world_size)
        return cls(total, tuple(tuple(_split_evenly(count, steps)) for count in per_rank))

    @property
    def steps(self) -> int:
        """Return the number of forward and backward passes per optimiser step."""
        return len(self.shares[0])

    def ranges(self, rank: int) -> list[range]:
        """Return the positions in the batch that `rank` takes in each accumulation step."""
        start = sum(sum(share) for share in self.shares[:rank])
        ranges = []
        for count in self.shares[rank]:
            ranges.append(range(start, start + count))
            start += count
        return ranges

    def describe(self) -> str:
        """Return one line for the log."""
        largest = max(max(share) for share in self.shares)
        accumulation = f", accumulated over {self.steps} passes" if self.steps > 1 else ""
        return (
            f"{self.total} images per optimiser step: {len(self.shares)} process(es) x at most "
            f"{largest} images at once{accumulation}."
        )


def _split_evenly(total: int, parts: int) -> list[int]:
    """Divide as evenly as whole numbers allow, larger parts first."""
    return [total // parts + (i < total % parts) for i in range(parts)]
