"""Named scalars of a training run, kept with enough history to smooth them."""

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
    """Holds the scalars of a run and its current iteration."""

    def __init__(self, start_iter: int = 0, window_size: int = 20) -> None:
        self.iter = start_iter
        self.window_size = window_size
        self._histories: dict[str, History] = defaultdict(History)
        self.images: list[tuple[str, Any, int]] = []

    def put_scalar(self, name: str, value: float) -> None:
        """Record `value` for `name` at the current iteration."""
        self._histories[name].update(float(value), self.iter)

    def put_scalars(self, **values: float) -> None:
        for name, value in values.items():
            self.put_scalar(name, value)

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

    def step(self) -> None:
        self.iter += 1

    def windows(self) -> dict[str, list[tuple[float, int]]]:
        """The last `window_size` (value, iteration) of each scalar, for a checkpoint."""
        return {n: h.entries(self.window_size) for n, h in self._histories.items()}

    def restore(self, windows: Mapping[str, Sequence[tuple[float, int]]]) -> None:
        """Record what windows() returned."""
        for name, entries in windows.items():
            for value, iteration in entries:
                self._histories[name].update(float(value), int(iteration))

    def __enter__(self) -> EventStorage:
        _STACK.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _STACK.pop()
