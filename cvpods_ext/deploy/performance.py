"""How fast a graph is: timed runs on one batch that is on the device already."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cvpods.utils.errors import ConfigError
from cvpods_ext.deploy.sessions import Session

WARMUP, RUNS = 3, 100


@dataclass
class Timing:
    """Seconds of each run, and the images of a batch."""

    seconds: list[float]
    batch: int

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def p99(self) -> float:
        return float(np.percentile(self.seconds, 99))

    @property
    def images_per_second(self) -> float:
        """Of the mean run, as the seed of this measurement counts."""
        return self.batch / float(np.mean(self.seconds))

    def describe(self) -> str:
        return (
            f"{len(self.seconds)} runs of {self.batch} images: median {self.median * 1e3:.1f} ms, "
            f"p99 {self.p99 * 1e3:.1f} ms, {self.images_per_second:.2f} images/s"
        )


def random_feeds(session: Session, batch: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Inputs of noise for one batch.

    Raises:
        ConfigError: the graph is of another batch or size.
    """
    for name, given, own in (("--batch", batch, session.batch), ("--size", size, session.size)):
        if own is not None and own != given:
            raise ConfigError(f"{name} {given}: this graph is for {own}. Leave {name} out.")
    generator = torch.Generator().manual_seed(0)
    feeds = {
        "input": torch.randn(batch, 3, *size, generator=generator),
        "image_sizes": torch.tensor([size]).repeat(batch, 1),
    }
    return {name: feeds[name] for name in session.shapes}


def measure(
    session: Session,
    batch: int,
    size: tuple[int, int],
    warmup: int = WARMUP,
    runs: int = RUNS,
) -> Timing:
    """Run the graph on one batch of noise, first unmeasured, then timed."""
    once = session.bind(random_feeds(session, batch, size))
    for _ in range(warmup):
        once()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - start)
    return Timing(seconds, batch)
