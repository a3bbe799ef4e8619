"""Named scalars of a training run, with enough history to smooth them."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from loguru import logger

from cvpods.utils.logger import log_first_n

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Largest number of images that wait for a writer. Beyond it, the oldest ones are dropped.
_MAX_IMAGES = 64
_STACK: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """Return the storage of the surrounding `with EventStorage(...)` block."""
    assert _STACK, "get_event_storage() must be called inside a 'with EventStorage(...)' block."
    return _STACK[-1]


class History:
    """The last values of one scalar, and the mean of all its values."""

    def __init__(self, max_length: int = 1000) -> None:
        self._values: deque[tuple[float, int]] = deque(maxlen=max_length)
        self._count = 0
        self._sum = 0.0

    def update(self, value: float, iteration: int) -> None:
        """Add a value."""
        self._values.append((value, iteration))
        self._count += 1
        self._sum += value

    def latest(self) -> float:
        """Return the last value."""
        return self._values[-1][0]

    def latest_iter(self) -> int:
        """Return the iteration of the last value."""
        return self._values[-1][1]

    def entries(self, size: int) -> list[tuple[float, int]]:
        """Return the last `size` pairs (value, iteration)."""
        return list(self._values)[-size:]

    def after(self, iteration: int) -> dict[int, float]:
        """Return {iteration: last value in it} for the iterations after a given one."""
        return {i: value for value, i in self._values if i > iteration}

    def window(self, size: int, end: int | None = None) -> list[float]:
        """Return the last values of the iterations up to `end` (included)."""
        values = [value for value, i in self._values if end is None or i <= end]
        return values[-size:]

    def median(self, window_size: int, end: int | None = None) -> float:
        """Return the median of window()."""
        return statistics.median(self.window(window_size, end))

    def avg(self, window_size: int) -> float:
        """Return the mean of the last values."""
        return statistics.fmean(self.window(window_size))

    def global_avg(self) -> float:
        """Return the mean of all values."""
        return self._sum / max(self._count, 1)


class EventStorage(AbstractContextManager):
    """Scalars of a run and its current iteration.

    Attributes:
        results: names of the metrics of evaluations, see put_results().
        written: the last iteration at which the writers wrote every scalar.
        keeps_images: keep images for a writer; otherwise, drop them.
    """

    def __init__(self, start_iter: int = 0, window_size: int = 20) -> None:
        self.iter = self.start_iter = start_iter
        self.window_size = window_size
        self.written = start_iter - 1
        self._histories: dict[str, History] = {}
        # Start of the current row of consecutive iterations at which each scalar was recorded.
        self._since: dict[str, int] = {}
        self._smooth: dict[str, bool] = {}
        self.results: set[str] = set()
        self.keeps_images = True
        self.images: deque[tuple[str, Tensor | np.ndarray, int]] = deque(maxlen=_MAX_IMAGES)

    def put_scalar(self, name: str, value: float, smoothing_hint: bool | None = None) -> None:
        """Record `value` for `name` at the current iteration.

        Args:
            smoothing_hint: show the median over the window in the log and in metrics.json, instead
                of the latest value. None: show the median if the name contains "loss".

        Raises:
            ValueError: the value is not a number, or the name is "iteration".
        """
        name, number = str(name), _number(name, value)
        if name == "iteration":
            raise ValueError("A scalar must not be named 'iteration': metrics.json has that key.")
        history = self._histories.get(name)
        if history is None or self.iter - history.latest_iter() not in (0, 1):
            self._since[name] = self.iter
        self._histories.setdefault(name, History()).update(number, self.iter)
        if smoothing_hint is not None:
            self._smooth[name] = smoothing_hint

    def put_scalars(self, *, smoothing_hint: bool | None = None, **values: float) -> None:
        """Record several scalars, see put_scalar()."""
        for name, value in values.items():
            self.put_scalar(name, value, smoothing_hint)

    def put_results(self, results: Mapping[str, float]) -> None:
        """Record the metrics of an evaluation, which progress lines do not repeat.

        The log names a result that is not a number, which is then left out.
        """
        for name, value in results.items():
            try:
                self.put_scalar(name, value, smoothing_hint=False)
                self.results.add(str(name))
            except ValueError as error:
                logger.warning("The evaluation's result is not recorded. {}", error)

    def put_image(self, name: str, image: Tensor | np.ndarray) -> None:
        """Queue an image, (3, H, W) or (H, W, 3), for the TensorBoard writer.

        Raises:
            ValueError: the array is not an image.
        """
        _check_image(name, image)
        if not self.keeps_images:
            return
        if len(self.images) == _MAX_IMAGES:
            text = f"More than {_MAX_IMAGES} images wait to be written: the oldest are dropped."
            log_first_n("WARNING", text)
        self.images.append((str(name), image, self.iter))

    def history(self, name: str) -> History:
        """Return the history of a scalar.

        Raises:
            KeyError: no scalar of that name was recorded.
        """
        if name not in self._histories:
            raise KeyError(f"No scalar named '{name}' was recorded; recorded: {self.names()}")
        return self._histories[name]

    def names(self) -> list[str]:
        """Return the names of all scalars, sorted."""
        return sorted(self._histories)

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return {name: (latest value, the iteration at which it was recorded)}."""
        return {n: (h.latest(), h.latest_iter()) for n, h in self._histories.items()}

    def display_value(self, name: str, window_size: int, iteration: int | None = None) -> float:
        """Return the value for the log: the median over the window, or the latest value.

        Args:
            iteration: return the value as of this iteration, instead of the current one.
        """
        history = self.history(name)
        smooth = self._smooth.get(name, "loss" in name)
        return history.median(window_size if smooth else 1, iteration)

    def after(self, name: str, iteration: int) -> dict[int, float]:
        """Return the values of a scalar after an iteration, see History.after()."""
        return self.history(name).after(iteration)

    def occasional_names(self) -> set[str]:
        """Return the names recorded at this iteration whose value must be written now.

        These are the results of evaluations, and the scalars that were not recorded at every
        iteration since the writers last wrote every scalar.
        """
        new = {n for n, h in self._histories.items() if h.latest_iter() == self.iter}
        return {n for n in new if n in self.results or self._is_late(self._since.get(n, 0))}

    def _is_late(self, since: int) -> bool:
        """Return True if a scalar was not recorded at every iteration so far.

        Args:
            since: start of its current row of consecutive iterations.
        """
        appeared_after_the_writers = since == self.iter == self.written
        return since > self.written + 1 or appeared_after_the_writers

    def ended_names(self) -> set[str]:
        """Return the names recorded at the iteration before, but not at this one."""
        return {n for n, h in self._histories.items() if h.latest_iter() == self.iter - 1}

    def step(self) -> None:
        """Move to the next iteration."""
        self.iter += 1

    def windows(self, end: int | None = None) -> dict[str, list[tuple[float, int]]]:
        """Return the last `window_size` (value, iteration) of each scalar, for a checkpoint.

        Args:
            end: leave out values recorded at this iteration or later.
        """
        found = {}
        for name, history in self._histories.items():
            entries = [e for e in history.entries(1000) if end is None or e[1] < end]
            if entries:
                found[name] = entries[-self.window_size :]
        return found

    def hints(self) -> dict[str, Any]:
        """Return the settings that decide how scalars are shown and written, for a checkpoint."""
        return {
            "smooth": dict(self._smooth),
            "results": sorted(self.results),
            "since": dict(self._since),
            "written": self.written,
        }

    def restore(
        self,
        windows: Mapping[str, Sequence[tuple[float, int]]],
        hints: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the values that windows() and hints() returned."""
        for name, entries in windows.items():
            history = self._histories.setdefault(name, History())
            for value, iteration in entries:
                history.update(float(value), int(iteration))
        hints = hints or {}
        self._smooth.update(hints.get("smooth", {}))
        self.results.update(hints.get("results", []))
        self._since.update(hints.get("since", {}))
        self.written = min(hints.get("written", self.written), self.start_iter - 1)

    def __enter__(self) -> EventStorage:
        _STACK.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _STACK.pop()


def _number(name: Any, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        got = f"{type(value).__name__} {value!r}"[:100]
        raise ValueError(f"The scalar {str(name)!r} must be a number; got {got}.") from None


def _check_image(name: Any, image: Any) -> None:
    shape, dtype = tuple(getattr(image, "shape", ())), str(getattr(image, "dtype", "none"))
    colours = len(shape) == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3))
    numbers = dtype.removeprefix("torch.").startswith(("uint8", "float"))
    if not (colours and numbers and min(shape) > 0):
        raise ValueError(
            f"The image {str(name)!r} must be a tensor or array of uint8 or of float, (3, H, W) or "
            f"(H, W, 3); got {type(image).__name__} of shape {shape}, dtype {dtype}."
        )
