"""Where the scalars of a run go: the console, metrics.json, TensorBoard."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, TextIO

import torch
from loguru import logger
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cvpods.checkpoint.atomic import write_atomically
from cvpods.evaluation import without_nan
from cvpods.utils.events import EventStorage, get_event_storage
from cvpods.utils.logger import is_terminal


class CommonMetricPrinter:
    """The progress line of the log, and a live bar on a terminal."""

    def __init__(self, max_iter: int, window_size: int = 20) -> None:
        self.max_iter = max_iter
        self.window_size = window_size
        self.bar: tqdm | None = None

    def step(self) -> None:
        """Move the bar; called every iteration."""
        if not is_terminal():
            return
        storage = get_event_storage()
        if self.bar is None:
            self.bar = tqdm(total=self.max_iter, initial=storage.iter, unit="it", leave=False)
        self.bar.update(1)
        if "total_loss" in storage.names():
            self.bar.set_postfix(loss=f"{storage.history('total_loss').median(20):.4g}")

    def has_written(self, iteration: int) -> bool:
        """Whether an iteration needs no writing, in a run that goes on after it."""
        return True

    def write(self) -> None:
        logger.info(self._line(get_event_storage()))

    def _line(self, storage: EventStorage) -> str:
        done = storage.iter + 1
        seconds = storage.history("time").global_avg() if "time" in storage.names() else 0.0
        eta = datetime.timedelta(seconds=int(seconds * (self.max_iter - done)))
        losses = [n for n in storage.names() if "loss" in n and n != "total_loss"]
        parts = [f"eta: {eta}", f"iter: {done}/{self.max_iter}"]
        for name in ["total_loss", *losses]:
            if name in storage.names():
                parts.append(f"{name}: {storage.history(name).median(self.window_size):.4g}")
        parts.append(f"time: {seconds:.4f}")
        if "data_time" in storage.names():
            parts.append(f"data_time: {storage.history('data_time').avg(self.window_size):.4f}")
        if "lr" in storage.names():
            parts.append(f"lr: {storage.history('lr').latest():.6f}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        else:
            parts.append(f"max_mem: {_max_resident_mib():.0f}M")
        return "  ".join(parts)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _max_resident_mib() -> float:
    """Peak memory of this process in MiB."""
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class JSONWriter:
    """metrics.json: one object per line, keys sorted; losses are medians of the window.

    What the file has of iterations that a resumed run repeats gives way to the new lines.
    """

    def __init__(self, path: str | Path, window_size: int = 20) -> None:
        self.path = Path(path)
        self.window_size = window_size
        self.file: TextIO | None = None

    def has_written(self, iteration: int) -> bool:
        """Whether the file has the iteration, with all that is recorded of it."""
        latest = get_event_storage().latest()
        names = {name for name, (_, recorded) in latest.items() if recorded == iteration}
        return any(r["iteration"] == iteration and names <= r.keys() for r in _records(self.path))

    def write(self) -> None:
        storage = get_event_storage()
        if self.file is None:
            _drop_from(self.path, storage.iter)
            self.file = self.path.open("a")
        record: dict[str, float] = {"iteration": storage.iter}
        for name, (value, iteration) in storage.latest().items():
            if iteration < storage.iter:  # of an earlier evaluation, already written
                continue
            if "loss" in name:
                value = storage.history(name).median(self.window_size)
            record[name] = value
        self.file.write(json.dumps(without_nan(record), sort_keys=True) + "\n")
        self.file.flush()

    def step(self) -> None:
        pass

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def _drop_from(path: Path, start: int) -> None:
    """Remove the lines of iterations >= start, and those that a kill left incomplete."""
    if not path.is_file():
        return

    kept = [record for record in _records(path) if record["iteration"] < start]
    text = "".join(f"{json.dumps(record, sort_keys=True)}\n" for record in kept)
    write_atomically(path, lambda file: file.write(text.encode()))


def _records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.json."""
    records = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            if isinstance(record["iteration"], int):
                records.append(record)
        except (ValueError, TypeError, KeyError):
            continue
    return records


class TensorboardXWriter:
    """events.out.tfevents.*: the same scalars, and images."""

    def __init__(self, log_dir: str | Path) -> None:
        self.log_dir = str(log_dir)
        self.writer: SummaryWriter | None = None
        self.last = -1

    def has_written(self, iteration: int) -> bool:
        """Not known; a point that is written twice is drawn once."""
        return False

    def write(self) -> None:
        storage = get_event_storage()
        if self.writer is None:  # curves of iterations that a resumed run repeats are cut off
            self.writer = SummaryWriter(self.log_dir, purge_step=storage.iter)
            self.last = storage.iter - 1
        for name, (value, iteration) in storage.latest().items():
            if iteration > self.last:
                self.writer.add_scalar(name, value, iteration)
        for name, image, iteration in storage.images:
            layout = "CHW" if image.shape[0] in (1, 3) else "HWC"
            self.writer.add_image(name, image, iteration, dataformats=layout)
        storage.images.clear()
        self.last = storage.iter

    def step(self) -> None:
        pass

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
