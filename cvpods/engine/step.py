"""One optimiser step: forward and backward over its passes, and what may go wrong in them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cvpods.engine.base_runner import RunnerBase
from cvpods.engine.memory import (
    OutOfMemory,
    describe_batch,
    describe_death,
    first_line,
    halve_images,
    is_dead_worker,
    is_out_of_memory,
    step_advice,
)
from cvpods.engine.model import autocast
from cvpods.engine.nonfinite import (
    NonFiniteLoss,
    NonFinitePolicy,
    all_finite,
    gradients_are_finite,
    norm_statistics,
    pack_batch,
    restore_statistics,
    weights_norm,
)
from cvpods.engine.scaling import plan_batches
from cvpods.engine.status import CorruptImages
from cvpods.solver import clip_gradients
from cvpods.utils import comm
from cvpods.utils.env import get_torch_rng_state, set_torch_rng_state


class TrainingStep(RunnerBase):
    """run_step() of DefaultRunner, which sets these attributes."""

    cfg: Any
    plan: Any
    data_loader: Any
    model: nn.Module
    bare_model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    nonfinite: NonFinitePolicy
    corrupt: CorruptImages
    _batches: Any

    @property
    def device(self) -> torch.device:
        return next(self.bare_model.parameters()).device

    def run_step(self) -> None:
        """One optimiser step over all accumulation steps.

        An error before the weights move leaves the state as it was after the iteration before.

        Raises:
            NonFiniteLoss: the losses or gradients are not finite, and TRAINER.NONFINITE says stop.
            OutOfMemory: they do not fit, and cannot be divided further.
        """
        assert self.model.training, "The model was changed to eval mode!"
        before = get_torch_rng_state(), norm_statistics(self.bare_model)
        try:
            self._try_step(before)
        except BaseException:
            if self.done is not None:
                set_torch_rng_state(before[0])
                restore_statistics(before[1])
            raise

    def _try_step(self, before: tuple[Any, Any]) -> None:
        """run_step(), given the random and the running state before it."""
        start = time.perf_counter()
        batches = self._next_batches()
        data_time = time.perf_counter() - start
        self.corrupt.note(batches)
        losses, batches = self._compute_gradients(batches, *before)
        try:
            self._write_metrics(losses, data_time)
            if not self.scaler.is_enabled() and not gradients_are_finite(self.bare_model):
                raise NonFiniteLoss(self.iter, {name: v.item() for name, v in losses.items()})
            self.done = None
            self._step_optimizer()
        except NonFiniteLoss as error:
            self.done = self.iter
            restore_statistics(before[1])
            self._refuse(error, batches, losses, before[0])
            return
        self.nonfinite.finite()

    def _next_batches(self) -> list[list[dict[str, Any]]]:
        """The samples of this step, a list for each of its passes."""
        try:
            return [next(self._batches) for _ in range(self.plan.steps)]
        except (RuntimeError, MemoryError) as error:
            if is_dead_worker(error) or is_out_of_memory(error):
                raise OutOfMemory(describe_death(error)) from error
            raise

    # -- gradients -----------------------------------------------------------------------------

    def _compute_gradients(
        self, batches: list[list[dict[str, Any]]], rng: Any, statistics: Any
    ) -> tuple[dict[str, Tensor], list[list[dict[str, Any]]]]:
        """Gradients of the step in the parameters; with SOLVER.AUTO_BATCH, in smaller passes where
        memory does not suffice.

        Returns:
            Its losses, and the passes that it took.
        """
        while True:
            try:
                return self._accumulate(batches), batches
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Out of the except block, which holds the tensors of the failed pass.
            set_torch_rng_state(rng)
            restore_statistics(statistics)
            batches = self._smaller(batches, reason)

    def _accumulate(self, batches: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Tensor]:
        """Forward and backward over the passes of a step; returns its losses.

        Every image weighs the same: a pass over n images counts n x world size / IMS_PER_BATCH.
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

    def _autocast(self) -> Any:
        return autocast(self.cfg, self.device.type)

    def _no_sync(self) -> Any:
        distributed = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if distributed else nullcontext()

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
        """The scaler left a step out because fp16 gradients overflowed: usual, unless it goes on.

        Raises:
            NonFiniteLoss: gradients that were not even scaled up are not finite: no overflow.
        """
        if after >= before:
            return
        if before <= 1:
            losses = {n: v for n, (v, _) in self.storage.latest().items() if "loss" in n}
            raise NonFiniteLoss(self.iter, losses)
        logger.info(
            f"fp16 overflow at iteration {self.iter}: step left out, loss scale {before:g} -> "
            f"{after:g}."
        )

    # -- memory --------------------------------------------------------------------------------

    def _smaller(self, batches: list[list[dict[str, Any]]], reason: str) -> list[list[Any]]:
        """The same samples in passes of half as many, as all later steps will be divided.

        Raises:
            OutOfMemory: not asked for, no longer possible, or the other processes must follow.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        images = max(len(batch) for batch in batches)
        auto = self.cfg.SOLVER.AUTO_BATCH and images > 1
        if auto:
            images = halve_images(self.cfg.OUTPUT_DIR, images)
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
        values = {name: value.item() for name, value in reduced.items()}
        self.storage.put_scalar("data_time", values.pop("data_time"))
        if not all_finite(values):
            raise NonFiniteLoss(self.iter, values)
        total = sum(value for name, value in values.items() if "loss" in name)
        self.storage.put_scalars(**{f"{prefix}total_loss": total})
        self.storage.put_scalars(**{f"{prefix}{name}": value for name, value in values.items()})

    def _refuse(
        self,
        error: NonFiniteLoss,
        batches: Sequence[Sequence[dict[str, Any]]],
        losses: Mapping[str, Tensor],
        rng: Any,
    ) -> None:
        """Leave a step out whose losses or gradients are not finite, or stop: see NonFinitePolicy.

        The ranks come here together, because the losses are averaged over them.
        """
        self.optimizer.zero_grad(set_to_none=True)
        own = {name: value.item() for name, value in losses.items()}
        dump = {
            "iteration": self.iter,
            "rank": comm.get_rank(),
            "world_size": comm.get_world_size(),
            "cause": self._cause(error, batches, rng),
            "losses": own,
            "losses_of_all_ranks": error.losses,
            "seed": self.cfg.SEED,
            "weights_norm": weights_norm(self.bare_model),
            "batches": [pack_batch(batch) for batch in batches],
            "rng": rng,
            "total": self.plan.total,
            "model": self.bare_model.state_dict(),
        }
        finite_everywhere = all_finite(error.losses)
        self.nonfinite.handle(error, dump, own=finite_everywhere or not all_finite(own))

    def _cause(
        self, error: NonFiniteLoss, batches: Sequence[Sequence[dict[str, Any]]], rng: Any
    ) -> str:
        """Why: "gradients" alone, an "overflow" of fp16, or "divergence"."""
        if all_finite(error.losses):
            return "gradients"
        amp = self.cfg.TRAINER.AMP
        if not amp.ENABLED or amp.DTYPE != "fp16":
            return "divergence"
        set_torch_rng_state(rng)
        statistics = norm_statistics(self.bare_model)
        finite = True
        with torch.no_grad():
            for data in batches:
                losses = comm.reduce_dict(self.bare_model(data))
                finite &= all_finite({name: value.item() for name, value in losses.items()})
        restore_statistics(statistics)
        return "overflow" if finite else "divergence"
