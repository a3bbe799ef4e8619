"""TrainingStep: one optimiser step, its passes, and the handling of what fails in them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from loguru import logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from cvpods.engine.auto_batch import halve_images_at_once
from cvpods.engine.base_runner import RunnerBase
from cvpods.engine.error_kinds import first_line, is_dead_worker, is_out_of_memory
from cvpods.engine.memory import OutOfMemory, dead_worker_advice, describe_batch, step_advice
from cvpods.engine.model import autocast
from cvpods.engine.nonfinite import (
    NonFiniteLoss,
    NonFinitePolicy,
    RunningStatistics,
    copy_running_statistics,
    gradients_are_finite,
    losses_are_finite,
    pack_batch,
    restore_running_statistics,
    weights_norm,
)
from cvpods.engine.scaling import plan_batches
from cvpods.engine.status import CorruptImages
from cvpods.solver import clip_gradients
from cvpods.structures.samples import Sample
from cvpods.utils import comm
from cvpods.utils.env import get_torch_rng_state, set_torch_rng_state

if TYPE_CHECKING:
    from cvpods.configs import BaseConfig
    from cvpods.data.samplers import BatchPlan

# The samples of one step: a batch for each of its passes.
Batches = list[list[Sample]]


class StepStart(NamedTuple):
    """The state that a forward pass changes, as it was before the step."""

    rng: list[Tensor]
    statistics: RunningStatistics

    @classmethod
    def of(cls, model: nn.Module) -> StepStart:
        return cls(get_torch_rng_state(), copy_running_statistics(model))

    def restore(self) -> None:
        set_torch_rng_state(self.rng)
        restore_running_statistics(self.statistics)


class TrainingStep(RunnerBase):
    """run_step() of DefaultRunner, which sets these attributes."""

    cfg: BaseConfig
    plan: BatchPlan
    model: nn.Module
    bare_model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    nonfinite: NonFinitePolicy
    corrupt: CorruptImages
    _batches: Iterator[list[Sample]]

    @property
    def device(self) -> torch.device:
        return next(self.bare_model.parameters()).device

    def run_step(self) -> None:
        """Make one optimiser step over all its passes.

        An error before the weights change leaves the state as it was after the previous iteration.

        Raises:
            NonFiniteLoss: the losses or gradients are not finite, and TRAINER.NONFINITE stops.
            OutOfMemory: the images do not fit into memory and cannot be divided further.
            RuntimeError: the model is in evaluation mode.
        """
        if not self.model.training:
            raise RuntimeError(
                "The model must be in training mode, and something has called eval() on it. Call "
                "train() again before the next step, for example at the end of that hook."
            )
        start = StepStart.of(self.bare_model)
        try:
            self._try_step(start)
        except BaseException:
            if self.done is not None:
                start.restore()
            raise

    def _try_step(self, start: StepStart) -> None:
        """Make the step, or skip it if its losses or gradients are not finite."""
        began = time.perf_counter()
        batches = self._next_batches()
        data_time = time.perf_counter() - began
        self.corrupt.note(batches)
        losses, batches = self._compute_gradients(batches, start)
        try:
            self._write_metrics(losses, data_time)
            if not self.scaler.is_enabled() and not gradients_are_finite(self.bare_model):
                raise NonFiniteLoss(self.iter, _values(losses))
            self.done = None
            self._step_optimizer()
        except NonFiniteLoss as error:
            self.done = self.iter
            restore_running_statistics(start.statistics)
            self._skip_or_stop(error, batches, losses, start.rng)
            return
        self.nonfinite.record_finite_step()

    def _next_batches(self) -> Batches:
        """Return the samples of this step, a batch for each of its passes.

        Raises:
            OutOfMemory: a worker of the loader died or ran out of memory.
        """
        try:
            return [next(self._batches) for _ in range(self.plan.steps)]
        except (RuntimeError, MemoryError) as error:
            if is_dead_worker(error) or is_out_of_memory(error):
                raise OutOfMemory(dead_worker_advice(error)) from error
            raise

    # -- gradients -----------------------------------------------------------------------------

    def _compute_gradients(
        self, batches: Batches, start: StepStart
    ) -> tuple[dict[str, Tensor], Batches]:
        """Compute the gradients of the step; with SOLVER.AUTO_BATCH, in passes that fit memory.

        Returns:
            The losses of the step, and the batches of the passes that computed them.
        """
        while True:
            try:
                return self._accumulate(batches), batches
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Outside the except block, because the error holds the tensors of the failed pass.
            start.restore()
            batches = self._divide(batches, reason)

    def _accumulate(self, batches: Sequence[Sequence[Sample]]) -> dict[str, Tensor]:
        """Run the forward and backward passes of a step; return its losses.

        Every image has the same weight: a pass of n images has n x world size / IMS_PER_BATCH.
        """
        self.optimizer.zero_grad(set_to_none=True)
        passes = []
        for index, data in enumerate(batches):
            with nullcontext() if index + 1 == len(batches) else self._no_sync():
                with self._autocast():
                    loss_dict = self.model(data)
                weight = len(data) * comm.get_world_size() / self.plan.total
                total = sum(loss for loss in loss_dict.values() if loss.requires_grad)
                self.scaler.scale(total * weight).backward()
            passes.append({name: loss.detach() * weight for name, loss in loss_dict.items()})
        return {name: torch.stack([p[name] for p in passes]).sum() for name in passes[0]}

    def _autocast(self) -> AbstractContextManager:
        return autocast(self.cfg, self.device.type)

    def _no_sync(self) -> AbstractContextManager:
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()

    def _step_optimizer(self) -> None:
        clip = self.cfg.SOLVER.CLIP_GRADIENTS
        if clip.ENABLED:
            self.scaler.unscale_(self.optimizer)
            clip_gradients(
                self.bare_model.parameters(),
                clip_type=clip.CLIP_TYPE,
                clip_value=clip.CLIP_VALUE,
                norm_type=clip.NORM_TYPE,
            )
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled():
            self._note_overflow(scale, self.scaler.get_scale())

    def _note_overflow(self, before: float, after: float) -> None:
        """Log that the scaler skipped a step because fp16 gradients overflowed.

        A few overflows are usual: the scaler looks for the largest scale that fits.

        Args:
            before, after: the loss scale, which an overflow lowers.

        Raises:
            NonFiniteLoss: the gradients are not finite although they were not scaled up.
        """
        if after >= before:
            return
        if before <= 1:
            losses = {n: v for n, (v, _) in self.storage.latest().items() if "loss" in n}
            raise NonFiniteLoss(self.iter, losses)
        logger.info(
            f"fp16 overflow at iteration {self.iter}: step skipped, loss scale {before:g} -> "
            f"{after:g}."
        )

    # -- memory --------------------------------------------------------------------------------

    def _divide(self, batches: Batches, reason: str) -> Batches:
        """Return the same samples in passes of half the size, which all later steps keep.

        Raises:
            OutOfMemory: --auto-batch is off, a pass has one image, or there are several processes:
                their launcher restarts all of them with smaller passes.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        images = max(len(batch) for batch in batches)
        auto = self.cfg.SOLVER.AUTO_BATCH and images > 1
        if auto:
            images = halve_images_at_once(self.cfg.OUTPUT_DIR, images)
        if not auto or comm.get_world_size() > 1:
            largest = max(batches, key=lambda b: sum(s["image"].numel() for s in b))
            raise OutOfMemory(
                f"Out of memory at iteration {self.iter}, with {describe_batch(largest)}: "
                f"{reason}. {step_advice(images)}"
            )
        self.plan = plan_batches(self.cfg, 1)
        self._rebuild_loader(self.iter + 1)
        return [b[i : i + images] for b in batches for i in range(0, len(b), images)]

    def _rebuild_loader(self, start_iter: int) -> None:
        raise NotImplementedError

    # -- numbers -------------------------------------------------------------------------------

    def _write_metrics(
        self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = ""
    ) -> None:
        """Record the losses, averaged over the ranks.

        Raises:
            NonFiniteLoss: names the losses and the iteration; no weight has changed yet.
        """
        reduced = comm.reduce_dict(
            {**loss_dict, "data_time": torch.tensor(data_time).to(self.device)}
        )
        values = _values(reduced)
        self.storage.put_scalar("data_time", values.pop("data_time"))
        if not losses_are_finite(values):
            raise NonFiniteLoss(self.iter, values)
        total = sum(value for name, value in values.items() if "loss" in name)
        self.storage.put_scalar(f"{prefix}total_loss", total)
        for name, value in values.items():
            self.storage.put_scalar(f"{prefix}{name}", value)

    def _skip_or_stop(
        self,
        error: NonFiniteLoss,
        batches: Sequence[Sequence[Sample]],
        losses: Mapping[str, Tensor],
        rng: list[Tensor],
    ) -> None:
        """Skip a step whose losses or gradients are not finite, or stop: see NonFinitePolicy.

        All ranks come here together, because the losses are averaged over them.
        """
        self.optimizer.zero_grad(set_to_none=True)
        own = _values(losses)
        dump = {
            "iteration": self.iter,
            "rank": comm.get_rank(),
            "world_size": comm.get_world_size(),
            "cause": self._find_cause(error, batches, rng),
            "losses": own,
            "losses_of_all_ranks": error.losses,
            "seed": self.cfg.SEED,
            "weights_norm": weights_norm(self.bare_model),
            "batches": [pack_batch(batch) for batch in batches],
            "rng": rng,
            "total": self.plan.total,
            "model": self.bare_model.state_dict(),
        }
        finite_everywhere = losses_are_finite(error.losses)
        self.nonfinite.handle(error, dump, own=finite_everywhere or not losses_are_finite(own))

    def _find_cause(
        self, error: NonFiniteLoss, batches: Sequence[Sequence[Sample]], rng: list[Tensor]
    ) -> str:
        """Return "gradients" (the losses are finite), "overflow" (of fp16) or "divergence".

        With fp16, the forward passes are repeated in float32 to tell the last two apart.
        """
        if losses_are_finite(error.losses):
            return "gradients"
        amp = self.cfg.TRAINER.AMP
        if not amp.ENABLED or amp.DTYPE != "fp16":
            return "divergence"
        set_torch_rng_state(rng)
        statistics = copy_running_statistics(self.bare_model)
        finite = True
        with torch.no_grad():
            for data in batches:
                losses = comm.reduce_dict(self.bare_model(data))
                finite &= losses_are_finite(_values(losses))
        restore_running_statistics(statistics)
        return "overflow" if finite else "divergence"


def _values(losses: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in losses.items()}
