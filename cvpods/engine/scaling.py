"""Batch size, learning rate and schedule for a number of processes and images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from loguru import logger

from cvpods.data.samplers import BatchPlan
from cvpods.engine.auto_batch import read_images_at_once
from cvpods.utils.errors import ConfigError

if TYPE_CHECKING:
    from cvpods.configs import BaseConfig


def plan_batches(cfg: BaseConfig, world_size: int) -> BatchPlan:
    """Divide the batch of a step over the processes, and log how.

    SOLVER.AUTO_SCALE "" keeps IMS_PER_BATCH and the schedule. "linear" first applies cvpods' rule
    to the config: every process handles IMS_PER_DEVICE images; the learning rate is multiplied, and
    the iterations are divided, by r = world size x IMS_PER_DEVICE / IMS_PER_BATCH.

    Raises:
        ConfigError: AUTO_SCALE is unknown, or the batch cannot be divided.
    """
    solver = cfg.SOLVER
    if solver.AUTO_SCALE == "linear":
        _scale_linearly(cfg, world_size)
    elif solver.AUTO_SCALE != "":
        raise ConfigError(f"SOLVER.AUTO_SCALE must be '' or 'linear'; got {solver.AUTO_SCALE!r}.")
    per_pass, rest = divmod(solver.IMS_PER_DEVICE, max(solver.BATCH_SUBDIVISIONS, 1))
    if solver.BATCH_SUBDIVISIONS < 1 or rest:
        raise ConfigError(
            f"SOLVER.IMS_PER_DEVICE {solver.IMS_PER_DEVICE} must be a multiple of "
            f"SOLVER.BATCH_SUBDIVISIONS {solver.BATCH_SUBDIVISIONS}, which must be at least 1."
        )
    if solver.AUTO_BATCH:
        per_pass = min(per_pass, read_images_at_once(cfg.OUTPUT_DIR) or per_pass)
    plan = BatchPlan.make(solver.IMS_PER_BATCH, per_pass, world_size)
    logger.info(plan.describe())
    return plan


def _scale_linearly(cfg: BaseConfig, world_size: int) -> None:
    """Apply cvpods' rule to the config, see plan_batches()."""
    solver, schedule = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER
    total = world_size * solver.IMS_PER_DEVICE
    ratio = total / solver.IMS_PER_BATCH
    if ratio == 1:
        return
    solver.IMS_PER_BATCH = total
    solver.OPTIMIZER.BASE_LR *= ratio
    if schedule.MAX_EPOCH is None:
        schedule.MAX_ITER = int(schedule.MAX_ITER / ratio)
        schedule.STEPS = [int(step / ratio) for step in schedule.STEPS]
        solver.CHECKPOINT_PERIOD = int(solver.CHECKPOINT_PERIOD / ratio)
        cfg.TEST.EVAL_PERIOD = int(cfg.TEST.EVAL_PERIOD / ratio)
    logger.info(
        f"SOLVER.AUTO_SCALE 'linear': batch {total}, lr {solver.OPTIMIZER.BASE_LR:g}, "
        f"{schedule.MAX_ITER} iterations (x {1 / ratio:g})."
    )


def resolve_epochs(cfg: BaseConfig, num_images: int) -> None:
    """Convert the periods of a config with SOLVER.LR_SCHEDULER.MAX_EPOCH to iterations."""
    solver, schedule = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER
    if schedule.MAX_EPOCH is None:
        return
    per_epoch = math.ceil(num_images / solver.IMS_PER_BATCH)
    schedule.MAX_ITER = int(schedule.MAX_EPOCH * per_epoch)
    schedule.STEPS = [int(step * per_epoch) for step in schedule.STEPS]
    schedule.WARMUP_ITERS = int(schedule.WARMUP_ITERS * per_epoch)
    solver.CHECKPOINT_PERIOD = int(solver.CHECKPOINT_PERIOD * per_epoch)
    cfg.TEST.EVAL_PERIOD = int(cfg.TEST.EVAL_PERIOD * per_epoch)
    schedule.MAX_EPOCH = None
    logger.info(f"An epoch is {per_epoch} iterations; training for {schedule.MAX_ITER}.")
