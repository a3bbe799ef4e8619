"""The training loop, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loguru import logger

from cvpods.engine.hooks import HookBase
from cvpods.utils.events import EventStorage


class RunnerBase:
    """Runs `run_step` from start_iter to max_iter, with hooks around it."""

    # Scalars of the run so far, where it goes on: see EventStorage.windows().
    windows: Mapping[str, list[tuple[float, int]]] = {}

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter = 0
        self.window_size = 20

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Add hooks; they are called in the order in which they came."""
        for hook in hooks:
            if hook is not None:
                hook.trainer = self
                self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Train iterations start_iter .. max_iter - 1."""
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter, self.window_size) as self.storage:
            self.storage.restore(self.windows)
            try:
                self.before_train()
                if start_iter > 0:
                    self.after_resume()
                for self.iter in range(start_iter, max_iter):
                    self.storage.iter = self.iter
                    self.before_step()
                    self.run_step()
                    self.after_step()
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        for hook in self._hooks:
            hook.after_train()

    def after_resume(self) -> None:
        self.iter = self.storage.iter = self.start_iter - 1
        for hook in self._hooks:
            hook.after_resume()

    def before_step(self) -> None:
        for hook in self._hooks:
            hook.before_step()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        raise NotImplementedError
