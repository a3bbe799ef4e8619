"""RunnerBase: the training loop, without anything that trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loguru import logger

from cvpods.engine.error_kinds import is_lost_peer
from cvpods.engine.failures import log_failure
from cvpods.engine.hooks import HookBase
from cvpods.utils.events import EventStorage
from cvpods.utils.stop import ENDS, EndNow, Stopped


class RunnerBase:
    """Loop that calls `run_step` from start_iter to max_iter, with hooks around each step.

    Attributes:
        done: number of iterations whose state is complete in memory: weights, optimiser, schedule
            and average. None while these change.
        failure: the exception of the first hook that failed in this iteration.
        agreed: whether all processes have exchanged their statuses after this iteration.
        cannot_save: whether the last attempt to save failed.
    """

    storage: EventStorage
    # Scalars of the earlier run, for a resumed one: see EventStorage.windows() and hints().
    windows: Mapping[str, list[tuple[float, int]]] = {}
    hints: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter = 0
        self.window_size = 20
        self.done: int | None = 0
        self.failure: BaseException | None = None
        self.agreed = False
        self.cannot_save = False

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Add hooks, without the None among them; HookBase describes the order of the calls.

        Raises:
            TypeError: an object that is not a hook.
        """
        for hook in hooks:
            if hook is not None:
                if not isinstance(hook, HookBase):
                    got = type(hook).__name__
                    raise TypeError(f"A hook must be an instance of HookBase; got a {got}.")
                hook.trainer = self
                self._hooks.append(hook)
        self._hooks.sort(key=lambda hook: hook.comes_last - hook.part_of_step)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Train the iterations start_iter .. max_iter - 1."""
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = self.done = start_iter
        self.max_iter = max_iter
        self.agreed = False
        with EventStorage(start_iter, self.window_size) as self.storage:
            self.storage.restore(self.windows, self.hints)
            self.storage.keeps_images = False  # until a writer takes them
            try:
                self.before_train()
                if start_iter > 0:
                    self.after_resume()
                for self.iter in range(start_iter, max_iter):
                    self.storage.iter = self.iter
                    self.agreed = False
                    self.before_step()
                    self.run_step()
                    self.after_step()
            except BaseException:
                self._close()
                raise
            self.agreed = False
            self.after_train()

    def _close(self) -> None:
        """Call after_train() without hiding the error that ended the run."""
        try:
            self.after_train()
        except ENDS as error:
            log_failure("Closing the run failed", error)

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self._call_all(self._hooks, "after_train")

    def after_resume(self) -> None:
        self.iter = self.storage.iter = self.start_iter - 1
        self._call_all(self._hooks, "after_resume")

    def before_step(self) -> None:
        for hook in self._hooks:
            hook.before_step()

    def after_step(self) -> None:
        self.done = None
        for hook in self._hooks:
            if hook.part_of_step:
                hook.after_step()
        self.done = self.iter + 1
        self._call_all((hook for hook in self._hooks if not hook.part_of_step), "after_step")

    def run_step(self) -> None:
        raise NotImplementedError

    def _call_all(self, hooks: Iterable[HookBase], method: str) -> None:
        """Call every hook, even after one has failed; then raise the first exception.

        The collective calls in hooks thus match between processes, and the hooks that save still
        do so.
        """
        self.failure = None
        for hook in hooks:
            try:
                getattr(hook, method)()
            except EndNow:
                raise
            except ENDS as error:
                if not (isinstance(error, Stopped) or is_lost_peer(error)):
                    # The first exception is raised below, where its traceback is shown.
                    details = self.failure is not None
                    log_failure(f"{type(hook).__name__}.{method} failed", error, details)
                self.failure = self.failure or error
        if self.failure is not None:
            raise self.failure
