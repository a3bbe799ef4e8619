"""Hooks: what a run does around its steps."""

from __future__ import annotations

import datetime
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loguru import logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cvpods.engine.failures import log_failure
from cvpods.engine.writers import CommonMetricPrinter
from cvpods.evaluation import flatten_results_dict
from cvpods.utils import comm
from cvpods.utils.stop import Stopped

if TYPE_CHECKING:
    from cvpods.engine.base_runner import RunnerBase


class HookBase:
    """Base of the objects that a runner calls around its steps.

    The runner calls its hooks in the order in which they were registered, with two exceptions:
    those with `part_of_step` come before the others, and those with `comes_last` after them, where
    a number above 1 comes after True.

    The state of a run is complete, and can be saved, once the optimiser and the hooks with
    `part_of_step` have changed it. If any other hook fails, the remaining ones are still called;
    then the run is saved and ends.

    Attributes:
        trainer: the runner, set by register_hooks().
    """

    trainer: RunnerBase
    part_of_step = False
    comes_last: int = False

    def before_train(self) -> None:
        """Act before the first iteration."""

    def after_resume(self) -> None:
        """Act before the first iteration of a resumed run, as if after the last one it has done.

        This makes up for what a kill after the checkpoint of that iteration left undone.
        """

    def after_train(self) -> None:
        """Act after the last iteration, also when an error ended the run."""

    def before_step(self) -> None:
        """Act before each iteration."""

    def after_step(self) -> None:
        """Act after each iteration."""

    @property
    def is_last(self) -> bool:
        """True in the last iteration of the run."""
        return self.trainer.iter + 1 >= self.trainer.max_iter

    def is_due(self, period: int) -> bool:
        """Return whether an event of this period (> 0) falls on the current iteration."""
        return period > 0 and (self.trainer.iter + 1) % period == 0


class CallbackHook(HookBase):
    """A hook made of functions of the runner, named after the methods that they replace."""

    def __init__(self, **callbacks: Callable[[Any], None]) -> None:
        for name, function in callbacks.items():
            setattr(self, name, lambda function=function: function(self.trainer))


class IterationTimer(HookBase):
    """Recorder of "time", in seconds per iteration; it logs the totals at the end."""

    def __init__(self, warmup_iter: int = 3) -> None:
        self.warmup_iter = warmup_iter

    def before_train(self) -> None:
        self.start = time.perf_counter()
        self.in_steps = 0.0

    def before_step(self) -> None:
        self.step_start = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self.step_start
        self.in_steps += seconds
        if self.trainer.iter - self.trainer.start_iter >= self.warmup_iter or self.is_last:
            self.trainer.storage.put_scalar("time", seconds)

    def after_train(self) -> None:
        count = self.trainer.iter + 1 - self.trainer.start_iter
        total = time.perf_counter() - self.start
        if count <= 0:
            return
        logger.info(
            f"Overall training speed: {count} iterations in {_duration(self.in_steps)} "
            f"({self.in_steps / count:.4f} s / it)"
        )
        logger.info(
            f"Total training time: {_duration(total)} ({_duration(total - self.in_steps)} on hooks)"
        )


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class LRScheduler(HookBase):
    """Recorder of the learning rate that also steps the schedule."""

    part_of_step = True

    def __init__(self, optimizer: Optimizer, scheduler: _LRScheduler) -> None:
        self.optimizer, self.scheduler = optimizer, scheduler
        largest = max(self.optimizer.param_groups, key=lambda g: len(g["params"]))
        self.group = self.optimizer.param_groups.index(largest)

    def after_step(self) -> None:
        lr = self.optimizer.param_groups[self.group]["lr"]
        self.trainer.storage.put_scalar("lr", lr)
        with warnings.catch_warnings():
            # The first step may have been skipped: see TRAINER.NONFINITE and overflows of fp16.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.scheduler.step()


class ModelEMA(HookBase):
    """Exponential moving average of the weights: avg = d * avg + (1 - d) * weights."""

    part_of_step = True

    def __init__(self, model: nn.Module, decay: float) -> None:
        average = get_ema_multi_avg_fn(decay)
        self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.averaged.requires_grad_(False)
        self.model = model

    @property
    def module(self) -> nn.Module:
        """The averaged model."""
        return self.averaged.module

    def after_step(self) -> None:
        self.averaged.update_parameters(self.model)

    def state_dict(self) -> dict[str, Any]:
        return self.averaged.module.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.averaged.module.load_state_dict(state_dict)
        self.averaged.n_averaged.fill_(1)  # > 0: average the next weights instead of copying them


class PeriodicWriter(HookBase):
    """Writer of the recorded scalars every `period` iterations, at the first and at the last.

    A scalar that is not recorded at every iteration is written at once, so that none of its values
    is lost. If a writer fails, the log names it, training continues, and the writer is tried again.

    Args:
        writers: objects with some of the methods of the writers in cvpods.engine.writers.
    """

    comes_last = True  # after every hook that may record a scalar

    def __init__(self, writers: Sequence[object], period: int = 20) -> None:
        self.writers = list(writers)
        self.period = period
        self._failed: set[str] = set()

    def before_train(self) -> None:
        # A writer of the experiment's own may take images.
        takes = (getattr(writer, "takes_images", True) for writer in self.writers)
        self.trainer.storage.keeps_images |= any(takes)

    def after_step(self) -> None:
        due = self._is_time_to_write()
        first = self.trainer.iter == self.trainer.start_iter
        for writer in self.writers:
            self._call(writer, "step")
            due_here = due or (first and isinstance(writer, CommonMetricPrinter))
            self._call(writer, "write" if due_here else "write_occasional")
        self._mark_written(due)

    def after_resume(self) -> None:
        """Write what a kill after the checkpoint has kept from being written."""
        due = self._is_time_to_write()
        for writer in self.writers:
            if not self._call(writer, "has_written", self.trainer.iter):
                self._call(writer, "write" if due else "write_occasional")
        self._mark_written(due)

    def after_train(self) -> None:
        for writer in self.writers:
            self._call(writer, "write_last")
            self._call(writer, "close")

    def _mark_written(self, due: bool) -> None:
        if due:
            self.trainer.storage.written = self.trainer.iter

    def _is_time_to_write(self) -> bool:
        return self.trainer.iter == 0 or self.is_last or self.is_due(self.period)

    def _call(self, writer: object, method: str, *args: Any) -> Any:
        """Call a writer's method, if it has it; log an error once, until the writer works again."""
        name = str(getattr(writer, "path", type(writer).__name__))
        try:
            result = getattr(writer, method)(*args) if hasattr(writer, method) else None
        except Exception as error:
            if name not in self._failed:
                log_failure(f"{name} cannot be written, training continues", error)
            self._failed.add(name)
            return None
        if method == "write":
            self._failed.discard(name)
        return result


class PeriodicCheckpointer(HookBase):
    """Saver of model_iter_0010000 every `period` iterations, and of model_final; < 0 saves nothing.

    Args:
        lacks_final: called when a run is resumed whose iterations are all done; returns whether
            model_final is missing or holds other iterations.
    """

    def __init__(
        self,
        save: Callable[[str], None],
        period: int,
        lacks_final: Callable[[], bool] = lambda: False,
    ) -> None:
        self.save = save
        self.period = period
        self.lacks_final = lacks_final

    def after_resume(self) -> None:
        if self.period >= 0 and self.is_last and self.lacks_final():
            self.save("model_final")

    def after_step(self) -> None:
        if self.period < 0:
            return
        if self.is_last:
            self.save("model_final")
        elif self.is_due(self.period):
            self.save(f"model_iter_{self.trainer.iter + 1:07d}")


class EvalHook(HookBase):
    """Call of `evaluate` every `period` iterations and after the last; < 0 never calls it.

    Its results {data set or task: ...} are recorded as scalars such as "bbox/AP" on rank 0. A stop
    signal interrupts it; the run then ends after the other hooks of this iteration. If it fails,
    the log says so and training continues; only a failure of the last evaluation ends the run.

    Args:
        is_missing: called when a run is resumed; returns whether the evaluation that was due last
            was not made.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], Mapping[str, Any]],
        is_missing: Callable[[], bool] = lambda: False,
    ) -> None:
        self.period = period
        self.evaluate = evaluate
        self.is_missing = is_missing

    def after_resume(self) -> None:
        if self.is_missing():
            self.after_step()

    def after_step(self) -> None:
        if self.period < 0 or not (self.is_last or self.is_due(self.period)):
            return
        try:
            results = self.evaluate()
            if comm.is_main_process() and results:
                self.trainer.storage.put_results(flatten_results_dict(results))
        except Stopped:
            logger.info("A signal interrupted the evaluation.")
        except Exception as error:
            if self.is_last:
                raise
            done = self.trainer.iter + 1
            log_failure(f"The evaluation after {done} iterations failed, training continues", error)
