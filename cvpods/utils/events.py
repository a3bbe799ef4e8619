"""Named scalars of a training run, with enough history to smooth them."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

_STACK: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """Return the storage of the surrounding `with EventStorage(...)` block."""
    assert _STACK, "get_event_storage() must be called inside a 'with EventStorage(...)' block."
    return _STACK[-1]


class History:
    """The last values of one scalar, and the mean of all of them."""

    def __init__(self, max_length: int = 1000) -> None:
        self._values: deque[tuple[float, int]] = deque(maxlen=max_length)
        self._count = 0
        self._sum = 0.0

    def update(self, value: float, iteration: int) -> None:
        self._values.append((value, iteration))
        self._count += 1
        self._sum += value

    def latest(self) -> float:
        return self._values[-1][0]

    def latest_iter(self) -> int:
        return self._values[-1][1]

    def previous_iter(self) -> int | None:
        """Return the iteration with a value before the latest one; None without such."""
        last = self.latest_iter()
        return next((i for _, i in reversed(self._values) if i != last), None)

    def entries(self, size: int) -> list[tuple[float, int]]:
        return list(self._values)[-size:]

    def window(self, size: int) -> list[float]:
        return [value for value, _ in self.entries(size)]

    def median(self, window_size: int) -> float:
        return statistics.median(self.window(window_size))

    def avg(self, window_size: int) -> float:
        return statistics.fmean(self.window(window_size))

    def global_avg(self) -> float:
        return self._sum / max(self._count, 1)


class EventStorage(AbstractContextManager):
    """Scalars of a run and its current iteration.

    Attributes:
        results: names of the metrics of evaluations, see put_results().
    """

    def __init__(self, start_iter: int = 0, window_size: int = 20) -> None:
        self.iter = self.start_iter = start_iter
        self.window_size = window_size
        self._histories: dict[str, History] = defaultdict(History)
        self._smooth: dict[str, bool] = {}
        self.results: set[str] = set()
        self.images: list[tuple[str, Any, int]] = []

    def put_scalar(self, name: str, value: float, smoothing_hint: bool | None = None) -> None:
        """Record `value` for `name` at the current iteration.

        Args:
            smoothing_hint: whether the log and metrics.json show the median over the window
                instead of the latest value. None: the median if the name contains "loss".
        """
        self._histories[name].update(float(value), self.iter)
        if smoothing_hint is not None:
            self._smooth[name] = smoothing_hint

    def put_scalars(self, *, smoothing_hint: bool | None = None, **values: float) -> None:
        """Record several scalars, see put_scalar()."""
        for name, value in values.items():
            self.put_scalar(name, value, smoothing_hint)

    def put_results(self, results: Mapping[str, float]) -> None:
        """Record the metrics of an evaluation, which progress lines do not repeat."""
        self.results.update(results)
        for name, value in results.items():
            self.put_scalar(name, value, smoothing_hint=False)

    def put_image(self, name: str, image: Any) -> None:
        """Queue an image, (3, H, W) or (H, W, 3), for the TensorBoard writer."""
        self.images.append((name, image, self.iter))

    def history(self, name: str) -> History:
        if name not in self._histories:
            raise KeyError(f"No scalar named '{name}' was recorded; there are: {self.names()}")
        return self._histories[name]

    def names(self) -> list[str]:
        return sorted(self._histories)

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return {name: (latest value, the iteration it was recorded at)}."""
        return {n: (h.latest(), h.latest_iter()) for n, h in self._histories.items()}

    def shown(self, name: str, window_size: int) -> float:
        """Return the value that people read: the median over the window, or the latest value."""
        history = self.history(name)
        smooth = self._smooth.get(name, "loss" in name)
        return history.median(window_size) if smooth else history.latest()

    def occasional(self) -> set[str]:
        """Return the names recorded at this iteration, but not at the one before."""
        return {
            name
            for name, history in self._histories.items()
            if history.latest_iter() == self.iter and history.previous_iter() != self.iter - 1
        }

    def step(self) -> None:
        self.iter += 1

    def windows(self, end: int | None = None) -> dict[str, list[tuple[float, int]]]:
        """Return the last `window_size` (value, iteration) of each scalar, for a checkpoint.

        Args:
            end: leave out what was recorded at this iteration or later.
        """
        found = {}
        for name, history in self._histories.items():
            entries = [e for e in history.entries(1000) if end is None or e[1] < end]
            if entries:
                found[name] = entries[-self.window_size :]
        return found

    def hints(self) -> dict[str, Any]:
        """Return how the scalars are shown, for a checkpoint."""
        return {"smooth": dict(self._smooth), "results": sorted(self.results)}

    def restore(
        self,
        windows: Mapping[str, Sequence[tuple[float, int]]],
        hints: Mapping[str, Any] | None = None,
    ) -> None:
        """Record what windows() and hints() returned."""
        for name, entries in windows.items():
            for value, iteration in entries:
                self._histories[name].update(float(value), int(iteration))
        self._smooth.update((hints or {}).get("smooth", {}))
        self.results.update((hints or {}).get("results", []))

    def __enter__(self) -> EventStorage:
        _STACK.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _STACK.pop()
