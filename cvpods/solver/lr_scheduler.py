"""Learning-rate schedules with warm-up, in iterations."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loguru import logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cvpods.utils.errors import ConfigError
from cvpods.utils.registry import Registry
from cvpods.utils.torch_private import set_schedule_progress

if TYPE_CHECKING:
    from cvpods.configs.config_dict import ConfigDict

SCHEDULER_BUILDER = Registry("SOLVER.LR_SCHEDULER.NAME")


def warmup_factor_at(method: str, iteration: int, warmup_iters: int, factor: float) -> float:
    """Return the factor of the learning rate at `iteration`; 1 from `warmup_iters` on.

    Raises:
        ConfigError: the method is unknown.
    """
    if iteration >= warmup_iters:
        return 1.0
    alpha = iteration / warmup_iters
    if method == "constant":
        return factor
    if method == "linear":
        return factor * (1 - alpha) + alpha
    if method == "burnin":
        return alpha**4
    raise ConfigError(
        "SOLVER.LR_SCHEDULER.WARMUP_METHOD must be 'constant', 'linear' or 'burnin'; "
        f"got {method!r}."
    )


# {attribute of a schedule: the config key that sets it}
SCHEDULE_KEYS = {
    "milestones": "SOLVER.LR_SCHEDULER.STEPS",
    "gamma": "SOLVER.LR_SCHEDULER.GAMMA",
    "max_iters": "SOLVER.LR_SCHEDULER.MAX_ITER",
    "base_lrs": "SOLVER.OPTIMIZER.BASE_LR",
    "warmup_iters": "SOLVER.LR_SCHEDULER.WARMUP_ITERS",
    "warmup_factor": "SOLVER.LR_SCHEDULER.WARMUP_FACTOR",
    "warmup_method": "SOLVER.LR_SCHEDULER.WARMUP_METHOD",
}


class WarmupLR(LRScheduler):
    """Base of the schedules lr(t) = base * warm-up(t) * decay(t).

    The learning rate depends only on the iteration. A resumed run therefore follows the schedule of
    its own config from the iteration that it has reached, and logs how that differs from the
    checkpoint's schedule.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        warmup_factor: float,
        warmup_iters: int,
        warmup_method: str,
        **schedule: Any,
    ) -> None:
        warmup_factor_at(warmup_method, -1, 1, warmup_factor)  # refuses an unknown method
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        vars(self).update(schedule)
        super().__init__(optimizer)

    def decay(self, iteration: int) -> float:
        """Return the factor of the learning rate without warm-up."""
        raise NotImplementedError

    # torch also allows tensors as learning rates; SOLVER.OPTIMIZER.BASE_LR is a number.
    def get_lr(self) -> list[float]:  # type: ignore[override]  # list is invariant
        iteration = self.last_epoch
        factor = warmup_factor_at(
            self.warmup_method, iteration, self.warmup_iters, self.warmup_factor
        ) * self.decay(iteration)
        return [float(base_lr) * factor for base_lr in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the iteration of a saved schedule."""
        for attribute, key in SCHEDULE_KEYS.items():
            saved, own = state_dict.get(attribute), vars(self).get(attribute)
            if attribute == "base_lrs" and set(saved or ()) == set(own or ()):
                continue  # the parameters may be in other groups
            if saved != own and attribute in state_dict:
                now = own if attribute in vars(self) else "not used"
                logger.warning(f"{key} ({attribute}): {saved} in the checkpoint, now {now}.")
        self.last_epoch = state_dict["last_epoch"]
        rates = self.get_lr()
        set_schedule_progress(self, state_dict.get("_step_count", self.last_epoch + 1), rates)
        for group, base, rate in zip(
            self.optimizer.param_groups, self.base_lrs, rates, strict=True
        ):
            group.update(initial_lr=base, lr=rate)


class WarmupMultiStepLR(WarmupLR):
    """Schedule with decay(t) = gamma ^ (number of milestones <= t)."""

    milestones: list[int]
    gamma: float

    def decay(self, iteration: int) -> float:
        return self.gamma ** bisect_right(self.milestones, iteration)


class WarmupCosineLR(WarmupLR):
    """Schedule with decay(t) = (1 + cos(pi t / T)) / 2."""

    max_iters: int

    def decay(self, iteration: int) -> float:
        return (1 + math.cos(math.pi * min(iteration / self.max_iters, 1.0))) / 2


def _warmup_arguments(cfg: ConfigDict) -> dict[str, Any]:
    schedule = cfg.SOLVER.LR_SCHEDULER
    return {
        "warmup_factor": schedule.WARMUP_FACTOR,
        "warmup_iters": schedule.WARMUP_ITERS,
        "warmup_method": schedule.WARMUP_METHOD,
    }


@SCHEDULER_BUILDER.register(name="WarmupMultiStepLR")
def build_multi_step(cfg: ConfigDict, optimizer: Optimizer) -> WarmupMultiStepLR:
    """Build the schedule that multiplies the learning rate by GAMMA at each of STEPS."""
    schedule = cfg.SOLVER.LR_SCHEDULER
    steps: Sequence[int] = schedule.STEPS
    if list(steps) != sorted(steps):
        raise ConfigError(f"SOLVER.LR_SCHEDULER.STEPS must increase; got {steps}.")
    return WarmupMultiStepLR(
        optimizer, milestones=list(steps), gamma=schedule.GAMMA, **_warmup_arguments(cfg)
    )


@SCHEDULER_BUILDER.register(name="WarmupCosineLR")
def build_cosine(cfg: ConfigDict, optimizer: Optimizer) -> WarmupCosineLR:
    """Build the schedule that decays along half a cosine until MAX_ITER."""
    max_iters = cfg.SOLVER.LR_SCHEDULER.MAX_ITER
    return WarmupCosineLR(optimizer, max_iters=max_iters, **_warmup_arguments(cfg))


def build_lr_scheduler(cfg: ConfigDict, optimizer: Optimizer) -> LRScheduler:
    """Build cfg.SOLVER.LR_SCHEDULER.NAME; step it once per iteration."""
    return SCHEDULER_BUILDER.get(cfg.SOLVER.LR_SCHEDULER.NAME)(cfg, optimizer)
