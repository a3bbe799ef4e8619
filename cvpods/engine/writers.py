"""Writers of a run's scalars: the console, metrics.json and TensorBoard."""

from __future__ import annotations

import datetime
import io
import itertools
import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary
from tqdm import tqdm

from cvpods.checkpoint.atomic import append_atomically, write_atomically
from cvpods.evaluation import without_nan
from cvpods.utils.events import EventStorage, get_event_storage
from cvpods.utils.logger import is_terminal

# Scalars of every iteration for which a progress line has a fixed place.
_BOOKKEEPING = {"time", "data_time", "lr"}


class CommonMetricPrinter:
    """Writer of the progress line of the log, and of a live bar on a terminal."""

    takes_images = False

    def __init__(self, max_iter: int, window_size: int = 20) -> None:
        self.max_iter = max_iter
        self.window_size = window_size
        self.bar: tqdm | None = None

    def step(self) -> None:
        """Advance the bar; the runner calls this every iteration."""
        if not is_terminal():
            return
        storage = get_event_storage()
        if self.bar is None:
            self.bar = tqdm(total=self.max_iter, initial=storage.iter, unit="it", leave=False)
        self.bar.update(1)
        if "total_loss" in storage.names():
            self.bar.set_postfix(loss=f"{storage.history('total_loss').median(20):.4g}")

    def has_written(self, iteration: int) -> bool:
        """Return True: a resumed run does not repeat the line of an earlier iteration."""
        return True

    def write_occasional(self) -> None:
        """Do nothing: the next progress line shows the scalar."""

    def write(self) -> None:
        logger.info(self._line(get_event_storage()))

    def _line(self, storage: EventStorage) -> str:
        done = storage.iter + 1
        seconds = storage.history("time").global_avg() if "time" in storage.names() else 0.0
        eta = datetime.timedelta(seconds=int(seconds * (self.max_iter - done)))
        parts = [f"eta: {eta}", f"iter: {done}/{self.max_iter}"]
        shown = [n for n in storage.names() if n not in _BOOKKEEPING | storage.results]
        for name in sorted(shown, key=lambda n: (n != "total_loss", "loss" not in n)):
            parts.append(f"{name}: {storage.display_value(name, self.window_size):.4g}")
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
    """Return the peak memory of this process in MiB; NaN on Windows."""
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class _ScalarFile:
    """Base of the writers of scalars to a file, each at its own iteration.

    A scalar that is recorded at every iteration is written with its latest value. One that is
    recorded occasionally is written with every value.
    """

    takes_images = False

    def __init__(self) -> None:
        self._done: dict[str, int] | None = None

    def open(self, start: int) -> dict[str, int]:
        """Prepare the file for the iteration `start` and later ones.

        Returns:
            {name: last iteration in the file}; for a missing name, that is the one before `start`.
        """
        raise NotImplementedError

    def append(self, lines: dict[int, dict[str, float]]) -> None:
        """Append {iteration: {name: value}} to the file."""
        raise NotImplementedError

    def write(self) -> None:
        """Append the scalars that the file does not have yet."""
        self._write(get_event_storage().names())

    def write_occasional(self) -> None:
        """Append the scalars that are not recorded at every iteration, and images."""
        storage = get_event_storage()
        at_resumption = storage.iter < storage.start_iter
        names = storage.occasional_names() | (set() if at_resumption else storage.ended_names())
        self._write_some(names)

    def write_last(self) -> None:
        """Append the scalars of the last iteration that were recorded after write_occasional()."""
        if self._done is not None:
            self._write_some(get_event_storage().occasional_names())

    def _write_some(self, names: Collection[str]) -> None:
        names = set(names) - _BOOKKEEPING
        if names or (self.takes_images and get_event_storage().images):
            self._write(names)

    def _write(self, names: Collection[str]) -> None:
        storage = get_event_storage()
        start = min(storage.iter, storage.start_iter)
        with_all_values = (storage.occasional_names() | storage.ended_names()) - _BOOKKEEPING
        if self._done is None:
            self._done = self.open(start)
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name in names:
            new = storage.after(name, self._done.get(name, start - 1))
            for iteration in new if name in with_all_values else list(new)[-1:]:
                stale = name in _BOOKKEEPING and iteration != storage.iter
                if not stale:
                    lines[iteration][name] = new[iteration]
        if lines or (self.takes_images and storage.images):
            self.append(lines)
        self._done.update({name: i for i in sorted(lines) for name in lines[i]})

    def close(self) -> None:
        """Do nothing: the file is not kept open."""


class JSONWriter(_ScalarFile):
    """Writer of metrics.json: one object per line, keys sorted; losses are medians of the window.

    The lines of a resumed run replace those of the iterations that it repeats.
    """

    def __init__(self, path: str | Path, window_size: int = 20) -> None:
        super().__init__()
        self.path = Path(path)
        self.window_size = window_size

    def has_written(self, iteration: int) -> bool:
        """Return whether the file has every scalar that was recorded at the iteration."""
        latest = get_event_storage().latest()
        names = {name for name, (_, recorded) in latest.items() if recorded == iteration}
        lines = [record for record in _records(self.path) if record["iteration"] == iteration]
        return bool(lines) and names <= {name for record in lines for name in record}

    def open(self, start: int) -> dict[str, int]:
        _drop_from(self.path, start)
        done = dict.fromkeys(get_event_storage().names(), -1)
        return done | {name: r["iteration"] for r in _records(self.path) for name in r}

    def append(self, lines: dict[int, dict[str, float]]) -> None:
        storage = get_event_storage()
        text = ""
        for iteration, record in sorted(lines.items()):
            shown = {
                name: storage.display_value(name, self.window_size, iteration) for name in record
            }
            text += json.dumps(without_nan({"iteration": iteration, **shown}), sort_keys=True)
            text += "\n"
        append_atomically(self.path, text.encode())


def _drop_from(path: Path, start: int) -> None:
    """Remove the lines of iterations >= start, and a line that a kill left incomplete."""
    if not path.is_file():
        return
    kept = [record for record in _records(path) if record["iteration"] < start]
    text = "".join(f"{json.dumps(record, sort_keys=True)}\n" for record in kept)
    write_atomically(path, lambda file: file.write(text.encode()))


def _records(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of metrics.json; [] without one."""
    records = []
    for line in (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ()
    ):
        try:
            record = json.loads(line)
            if type(record["iteration"]) is int:  # not True
                records.append(record)
        except (ValueError, TypeError, KeyError):
            continue
    return records


class TensorboardXWriter(_ScalarFile):
    """Writer of events.out.tfevents.*: the same scalars, not smoothed, and images."""

    takes_images = True

    def __init__(self, log_dir: str | Path) -> None:
        super().__init__()
        self.log_dir = Path(log_dir)
        name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self.path = self.log_dir / f"events.out.tfevents.{name}.{next(_COUNTER):03d}"

    def has_written(self, iteration: int) -> bool:
        """Return False, because that is unknown; TensorBoard draws a repeated point once."""
        return False

    def open(self, start: int) -> dict[str, int]:
        """Start a file; TensorBoard then drops the points that a resumed run repeats."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        version = Event(wall_time=time.time(), file_version="brain.Event:2")
        restart = SessionLog(status=SessionLog.START)
        _append_events(
            self.path, [version, Event(wall_time=time.time(), step=start, session_log=restart)]
        )
        return {}

    def append(self, lines: dict[int, dict[str, float]]) -> None:
        storage = get_event_storage()
        summaries = [
            (iteration, summary.scalar(name, value))
            for iteration, record in lines.items()
            for name, value in record.items()
        ]
        for name, image, iteration in storage.images:
            layout = "CHW" if image.shape[0] in (1, 3) else "HWC"
            summaries.append((iteration, summary.image(name, image, dataformats=layout)))
        now = time.time()
        _append_events(self.path, [Event(wall_time=now, step=i, summary=s) for i, s in summaries])
        storage.images.clear()


_COUNTER = itertools.count()


def _append_events(path: Path, events: Sequence[Event]) -> None:
    buffer = io.BytesIO()
    records = RecordWriter(buffer)
    for event in events:
        records.write(event.SerializeToString())
    append_atomically(path, buffer.getvalue())
