"""Speed of a graph: timed runs on one batch of noise that is on the device already."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from cvpods.utils.errors import ConfigError
from cvpods_ext.deploy.options import RUNS, WARMUP, InputShape
from cvpods_ext.deploy.sessions import Session, open_session

_DEFAULT_SIZE = (800, 1344)


@dataclass
class Timing:
    """Durations of timed runs.

    Args:
        seconds: duration of each run.
        batch: images in a run.
    """

    seconds: list[float]
    batch: int

    @property
    def median(self) -> float:
        """Median duration in seconds."""
        return float(np.median(self.seconds))

    @property
    def p99(self) -> float:
        """99th percentile of the durations, in seconds."""
        return float(np.percentile(self.seconds, 99))

    @property
    def images_per_second(self) -> float:
        """Throughput at the mean duration."""
        return self.batch / float(np.mean(self.seconds))

    def describe(self) -> str:
        """Return the figures on one line."""
        return (
            f"{len(self.seconds)} runs of {self.batch} images: median {self.median * 1e3:.1f} ms, "
            f"p99 {self.p99 * 1e3:.1f} ms, {self.images_per_second:.2f} images/s"
        )


def time_graph(
    path: str | Path,
    *,
    provider: str = "auto",
    device: str = "cpu",
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    warmup: int = WARMUP,
    runs: int = RUNS,
) -> dict[str, Any]:
    """Time a graph on noise; log and return the figures.

    Args:
        provider, device: see open_session.
        batch: images in a run; None for the graph's batch, or 1 if that is open.
        size: (height, width); None for the graph's size, or 800 x 1344 if that is open.
        warmup, runs: see measure.

    Returns:
        {"images_per_second", "median_s", "p99_s", ...}, ready for JSON.

    Raises:
        ConfigError: the graph does not take this batch or size, or the provider cannot run it.
        CheckpointError: see open_session.
    """
    session = open_session(path, provider, device)
    info = session.info
    size = size or session.size or _DEFAULT_SIZE
    batch = batch or session.batch or 1
    InputShape(batch, size).check(info.divisor)
    timing = measure(session, batch, size, warmup, runs)
    precision = "FP16" if info.half else "FP32"
    graph = f"{info.detector} {info.kind}, {precision}, {size[0]}x{size[1]}"
    logger.info(f"{path}: {graph}, by {session.device}")
    logger.info(timing.describe())
    return {
        "model": str(path),
        "device": session.device,
        "precision": precision,
        "batch": batch,
        "size": list(size),
        "median_s": timing.median,
        "p99_s": timing.p99,
        "images_per_second": timing.images_per_second,
    }


def random_feeds(session: Session, batch: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return inputs of noise for one batch.

    Raises:
        ConfigError: the graph takes another batch or size.
    """
    for name, given, own in (("--batch", batch, session.batch), ("--size", size, session.size)):
        if own is not None and own != given:
            raise ConfigError(f"{name} must be {own}, as in this graph, or left out; got {given}.")
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
    """Run the graph on one batch of noise, `warmup` times untimed and `runs` times timed."""
    once = session.bind(random_feeds(session, batch, size))
    for _ in range(warmup):
        once()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - start)
    return Timing(seconds, batch)
