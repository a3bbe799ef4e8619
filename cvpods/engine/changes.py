"""Keys that differ between a checkpoint's run and a run that resumes it: the new config wins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loguru import logger

from cvpods.configs.config_dict import flatten
from cvpods.solver import WarmupLR
from cvpods.solver.lr_scheduler import SCHEDULE_KEYS
from cvpods.utils.errors import CheckpointError

if TYPE_CHECKING:
    from cvpods.configs import BaseConfig
    from cvpods.engine.runner import DefaultRunner

GROUPS = ("SOLVER", "TRAINER", "DATASETS")

_AT_ONCE = "Takes effect from the first resumed iteration."
_NOT_READ = "Nothing reads it."
_SCHEDULE = (
    "Takes effect: the rate is that of the new schedule at the iteration reached. Refused with a "
    "schedule of the experiment's own that is not a WarmupLR."
)
_DECAY = "Takes effect; each parameter keeps its momentum."
_PASSES = "Takes effect; the order of the images stays that of the checkpoint's run."
_SCALED = "Takes effect through SOLVER.IMS_PER_BATCH, BASE_LR and the schedule."

# What happens to a changed key on --resume; docs/reliability.md shows it as a table.
ON_RESUME: dict[str, str] = {
    "SOLVER.LR_SCHEDULER.NAME": _SCHEDULE,
    "SOLVER.LR_SCHEDULER.MAX_ITER": f"{_SCHEDULE} If all these iterations are done already, "
    "nothing is trained: model_final is written if it is missing, and evaluated.",
    "SOLVER.LR_SCHEDULER.MAX_EPOCH": "Takes effect as MAX_ITER and STEPS in iterations.",
    "SOLVER.LR_SCHEDULER.STEPS": _SCHEDULE,
    "SOLVER.LR_SCHEDULER.GAMMA": _SCHEDULE,
    "SOLVER.LR_SCHEDULER.WARMUP_FACTOR": _SCHEDULE,
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": _SCHEDULE,
    "SOLVER.LR_SCHEDULER.WARMUP_METHOD": _SCHEDULE,
    "SOLVER.OPTIMIZER.NAME": "Refused, except between SGD and D2SGD, which are the same.",
    "SOLVER.OPTIMIZER.BASE_LR": _SCHEDULE,
    "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": _SCHEDULE,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY": _DECAY,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY_NORM": _DECAY,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY_BIAS": _DECAY,
    "SOLVER.OPTIMIZER.MOMENTUM": "Takes effect; the accumulated momentum is kept.",
    "SOLVER.CLIP_GRADIENTS.ENABLED": _AT_ONCE,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _AT_ONCE,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _AT_ONCE,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": _AT_ONCE,
    "SOLVER.CHECKPOINT_PERIOD": _AT_ONCE,
    "SOLVER.IMS_PER_BATCH": "Takes effect; the count of iterations and the order of the images "
    "continue.",
    "SOLVER.IMS_PER_DEVICE": _PASSES,
    "SOLVER.BATCH_SUBDIVISIONS": _PASSES,
    "SOLVER.AUTO_BATCH": _PASSES,
    "SOLVER.AUTO_SCALE": _SCALED,
    "TRAINER.NAME": "Takes effect; the other runner must read what the first one saved.",
    "TRAINER.AMP.ENABLED": _AT_ONCE,
    "TRAINER.AMP.DTYPE": f"{_AT_ONCE} A gradient scaler that the checkpoint lacks starts afresh.",
    "TRAINER.EMA.ENABLED": "On: the average starts from the resumed weights. Off: the average is "
    "dropped, and evaluation uses the plain weights.",
    "TRAINER.EMA.DECAY": _AT_ONCE,
    "TRAINER.CHANNELS_LAST": _AT_ONCE,
    "TRAINER.FIND_UNUSED_PARAMETERS": _AT_ONCE,
    "TRAINER.COMPILE": _AT_ONCE,
    "TRAINER.NONFINITE.POLICY": _AT_ONCE,
    "TRAINER.NONFINITE.MAX_SKIPPED": _AT_ONCE,
    "TRAINER.NONFINITE.MAX_SKIPPED_SHARE": "Takes effect; earlier steps count too.",
    "TRAINER.WINDOW_SIZE": "Takes effect; the checkpoint holds the older window's values.",
    "DATASETS.CUSTOM_TYPE": "Takes effect; see DATASETS.TRAIN.",
    "DATASETS.TRAIN": "Takes effect: the order is that of the new set, from the position that was "
    "reached. The epoch under way may repeat images and leave others out.",
    "DATASETS.TEST": "Takes effect from the next evaluation.",
    "DATASETS.PROPOSAL_FILES_TRAIN": _NOT_READ,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": _NOT_READ,
    "DATASETS.PROPOSAL_FILES_TEST": _NOT_READ,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": _NOT_READ,
}

# Keys that a schedule may depend on.
_SCHEDULE_DEPENDS_ON = {*SCHEDULE_KEYS.values(), "SOLVER.LR_SCHEDULER.NAME"} | {
    "SOLVER.OPTIMIZER.BIAS_LR_FACTOR"
}
# Sentences for the log on changes that the first sentence of ON_RESUME does not describe.
_LOGGED = {
    "SOLVER.OPTIMIZER.NAME": "Takes effect: both are the same.",
    "TRAINER.EMA.ENABLED True": "The average starts from the resumed weights.",
    "TRAINER.EMA.ENABLED False": "The average is dropped; evaluation uses the plain weights.",
}


def config_of(cfg: BaseConfig) -> dict[str, Any]:
    """Return the keys of GROUPS for a checkpoint, as plain values."""
    values = {key: value for key, value in flatten(cfg) if key.partition(".")[0] in GROUPS}
    return json.loads(json.dumps(values, default=repr))


def apply_changes(runner: DefaultRunner, content: Mapping[str, Any]) -> None:
    """Log each key that differs from the checkpoint's run, and the effect of the change.

    Raises:
        CheckpointError: the run cannot continue with a change.
    """
    before, now = content.get("config", {}), config_of(runner.cfg)
    changed = [key for key, value in now.items() if key in before and before[key] != value]
    if not isinstance(runner.scheduler, WarmupLR):
        _refuse_for_schedule(
            runner, [key for key in changed if key in _SCHEDULE_DEPENDS_ON], before, now
        )
    saved = content.get("scheduler", {}) if isinstance(runner.scheduler, WarmupLR) else {}
    # A WarmupLR logs these itself, also for checkpoints without a config.
    known = {key for attribute, key in SCHEDULE_KEYS.items() if attribute in saved}
    for key in changed:
        if key not in known:
            effect = _describe_effect(key, now[key])
            logger.warning(f"{key}: {before[key]!r} in the checkpoint, now {now[key]!r}. {effect}")
    if now["SOLVER.AUTO_SCALE"] == "linear":
        _warn_of_scale(runner, before, now)
    if not before and "ema" in content and runner.ema is None:
        logger.warning("TRAINER.EMA.ENABLED is off now: the checkpoint's average is dropped.")
    images = len(runner.data_loader.dataset)
    if content.get("images", images) != images:
        logger.warning(
            f"The training set had {content['images']:,} images and has {images:,} now. "
            f"{ON_RESUME['DATASETS.TRAIN']}"
        )


def _describe_effect(key: str, value: Any) -> str:
    """Return a sentence for the log on the effect of a changed key."""
    first = ON_RESUME.get(key, _AT_ONCE).partition(". ")[0].rstrip(".")
    return _LOGGED.get(key) or _LOGGED.get(f"{key} {value}") or f"{first}."


def _warn_of_scale(
    runner: DefaultRunner, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Warn that AUTO_SCALE scales all iterations, including those that are done."""
    key = "SOLVER.LR_SCHEDULER.MAX_ITER"
    batch, new = before.get("SOLVER.IMS_PER_BATCH"), now["SOLVER.IMS_PER_BATCH"]
    if batch in (None, new) or before.get(key) in (None, now[key]):
        return
    logger.warning(
        f"SOLVER.AUTO_SCALE 'linear' gives {now[key]} iterations with {new} images per step; the "
        f"checkpoint's run had {before[key]} with {batch}, and {runner.start_iter} of them are "
        "done. The whole training then sees another number of images. To keep the schedule, "
        "resume with the same number of processes and SOLVER.IMS_PER_DEVICE as before, or write "
        f"SOLVER.AUTO_SCALE '' {key} {before[key]} with the STEPS that you want."
    )


def _refuse_for_schedule(
    runner: DefaultRunner, changed: list[str], before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Raise CheckpointError if keys changed that a schedule of the experiment's own depends on."""
    if not changed:
        return
    listed = ", ".join(f"{key} from {before[key]!r} to {now[key]!r}" for key in changed)
    raise CheckpointError(
        f"The schedule {type(runner.scheduler).__name__} of this experiment cannot continue with a "
        f"changed config ({listed}): only a WarmupLR is known to depend on the iteration alone. "
        "Either resume with the values of the checkpoint, or start a new run from its weights: "
        "another OUTPUT_DIR, and MODEL.WEIGHTS <the checkpoint>."
    )
