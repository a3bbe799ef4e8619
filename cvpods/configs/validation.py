"""Checks of a configuration's values: type, range, choices, and values that contradict each other.

They run before anything is built. A model checks the keys that only it understands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from cvpods.configs.config_dict import ConfigDict, check_type, leaves
from cvpods.utils.errors import ConfigError
from cvpods.utils.ranges import Range, read_auto

_COUNT = Range(0, whole=True)
_POSITIVE = Range(1, whole=True)
_CHANNELS = Range(1, 2**16, whole=True)
_IMAGES = Range(1, 2**20, whole=True)
_ANY = Range(-math.inf, whole=True)
_SHARE = Range(0, 1)
_WEIGHT = Range(0)

# Allowed range of each numeric key. For a list, the range applies to every element.
RANGES: dict[str, Range] = {
    "MODEL.PIXEL_STD": Range(0, inside=True),
    "MODEL.BACKBONE.FREEZE_AT": Range(0, 5, whole=True),
    "MODEL.RESNETS.NUM_GROUPS": _CHANNELS,
    "MODEL.RESNETS.WIDTH_PER_GROUP": _CHANNELS,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": _CHANNELS,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": _CHANNELS,
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": _CHANNELS,
    "MODEL.FPN.OUT_CHANNELS": _CHANNELS,
    "INPUT.MAX_PIXELS": Range(1, whole=True),
    "DATALOADER.NUM_WORKERS": Range(0, 256, whole=True),
    "DATALOADER.MAX_CORRUPT_SHARE": _SHARE,
    "TRAINER.EMA.DECAY": _SHARE,
    "TRAINER.NONFINITE.MAX_SKIPPED": _COUNT,
    "TRAINER.NONFINITE.MAX_SKIPPED_SHARE": _SHARE,
    "TRAINER.WINDOW_SIZE": _POSITIVE,
    "SOLVER.LR_SCHEDULER.MAX_ITER": _POSITIVE,
    "SOLVER.LR_SCHEDULER.STEPS": _COUNT,
    "SOLVER.LR_SCHEDULER.GAMMA": Range(0, inside=True),
    "SOLVER.LR_SCHEDULER.WARMUP_FACTOR": _WEIGHT,
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": _COUNT,
    "SOLVER.OPTIMIZER.BASE_LR": _WEIGHT,
    "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": _WEIGHT,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY": _WEIGHT,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY_NORM": _WEIGHT,
    "SOLVER.OPTIMIZER.MOMENTUM": _SHARE,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": Range(0, inside=True),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Range(0, inside=True),
    "SOLVER.CHECKPOINT_PERIOD": _ANY,
    "SOLVER.IMS_PER_BATCH": _IMAGES,
    "SOLVER.IMS_PER_DEVICE": _IMAGES,
    "SOLVER.BATCH_SUBDIVISIONS": _IMAGES,
    "TEST.EVAL_PERIOD": _ANY,
    "TEST.DETECTIONS_PER_IMAGE": _POSITIVE,
    "TEST.IMS_PER_DEVICE": _POSITIVE,
    "TEST.AUG.MAX_SIZE": _POSITIVE,
    "GLOBAL.LOG_INTERVAL": _POSITIVE,
    "SEED": Range(-(2**63), 2**63 - 1, whole=True),
}
# The range of each entry, and the number of entries, of lists in a method's group.
METHOD_LISTS: dict[str, tuple[Range, int]] = {
    "BBOX_REG_WEIGHTS": (Range(0, inside=True), 4),
    "IOU_THRESHOLDS": (_SHARE, 2),
}
# Allowed range of keys that may also be None.
OR_NONE: dict[str, Range] = {
    "MODEL.RESNETS.NUM_CLASSES": _POSITIVE,
    "SOLVER.LR_SCHEDULER.MAX_EPOCH": Range(0, inside=True),
    "SOLVER.OPTIMIZER.WEIGHT_DECAY_BIAS": _WEIGHT,
    "TEST.AUG.DETECTIONS_PER_IMAGE": _POSITIVE,
}
# Keys that may be None although their default is not.
_NONE_TOO = ("MODEL.NMS_TYPE", *OR_NONE)
# Lists of names that are empty by default.
TEXTS = (
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "MODEL.FPN.IN_FEATURES",
    "MODEL.RESNETS.OUT_FEATURES",
)
AUTO_OR_NUMBER = ("INPUT.WHITE_LEVEL",)
CHOICES: dict[str, tuple] = {
    "INPUT.FORMAT": ("BGR", "RGB", "L"),
    "TRAINER.AMP.DTYPE": ("bf16", "fp16"),
    "TRAINER.NONFINITE.POLICY": ("stop", "skip"),
    "SOLVER.LR_SCHEDULER.WARMUP_METHOD": ("constant", "linear", "burnin"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
    "SOLVER.AUTO_SCALE": ("", "linear"),
    "TEST.GRAPH.RESIZE": ("fit", "stretch"),
    "TEST.AUG.MERGE": ("soft-vote", "vote", "nms"),
}


def check_config(cfg: ConfigDict) -> None:
    """Check type and range of every value.

    Raises:
        ConfigError: the message names every wrong key, its value and the allowed values.
    """
    values = leaves(cfg)
    errors = _wrong_types(cfg, values) or _wrong_values(values)
    if errors:
        raise ConfigError("\n".join(errors))


def check_training(cfg: ConfigDict) -> None:
    """Run check_config(), and check that the schedule can work.

    Raises:
        ConfigError: a value is wrong, or the schedule ends before its steps.
    """
    check_config(cfg)
    schedule = cfg.SOLVER.LR_SCHEDULER
    if schedule.MAX_EPOCH is None and schedule.WARMUP_ITERS >= schedule.MAX_ITER:
        from cvpods.utils.logger import log_first_n

        log_first_n(
            "WARNING",
            f"SOLVER.LR_SCHEDULER.WARMUP_ITERS {schedule.WARMUP_ITERS} is not below MAX_ITER "
            f"{schedule.MAX_ITER}: the learning rate never reaches BASE_LR. Shorten the warm-up.",
            key="message",
        )
    end = schedule.MAX_ITER if schedule.MAX_EPOCH is None else schedule.MAX_EPOCH
    name = "MAX_ITER" if schedule.MAX_EPOCH is None else "MAX_EPOCH"
    steps = list(schedule.STEPS) if schedule.NAME == "WarmupMultiStepLR" else []
    late = [step for step in steps if step >= end]
    if late:
        raise ConfigError(
            f"SOLVER.LR_SCHEDULER.STEPS {steps} must lie below {name} {end}: at {late[0]} the "
            "training is over. Shorten them too, for example SOLVER.LR_SCHEDULER.STEPS "
            f"'({int(end * 2 / 3)},)', or '()' for a constant rate."
        )


def _auto_errors(key: str, value: Any) -> list[str]:
    """Return the error of a key that must be "auto" or a number; [] if it is."""
    try:
        read_auto(key, value)
    except ConfigError as error:
        return [str(error)]
    return []


def _wrong_types(cfg: ConfigDict, values: Mapping[str, Any]) -> list[str]:
    """Return an error for each value that is missing or has another type than its default."""
    errors = []
    for key, default in _defaults(type(cfg)).items():
        if key not in values or (values[key] is None and default is not None):
            if key not in _NONE_TOO:
                errors.append(f"{key} is {'None' if key in values else 'missing'}.")
            continue
        try:
            _check_entries(key, default, check_type(key, default, values[key]))
        except ConfigError as error:
            errors.append(str(error))
    return errors


@cache
def _defaults(kind: type[ConfigDict]) -> Mapping[str, Any]:
    """Return the defaults of a config class by dotted name."""
    return leaves(kind())


def _check_entries(name: str, default: Any, value: Any) -> None:
    """Check that a list has entries of the same kind as its default.

    A default that is empty or mixes kinds allows any entries.

    Raises:
        ConfigError: an entry is of another kind.
    """
    if not isinstance(default, (list, tuple)):
        return
    kinds = {_kind(entry) for entry in default}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is not None and any(_kind(entry) != kind for entry in value):
        raise ConfigError(f"{name} must be a list of {kind}s (default {default!r}); got {value!r}.")


def _kind(value: Any) -> str | None:
    """Return a word for the type of a list's entry; None for a type without one."""
    kinds = {bool: "boolean", int: "number", float: "number", str: "text", list: "list"}
    return kinds.get(list if isinstance(value, (list, tuple)) else type(value))


def _wrong_values(values: Mapping[str, Any]) -> list[str]:
    """Return an error for each value that is out of its range or not one of its choices."""
    errors = []
    for key, value in values.items():
        allowed, length = METHOD_LISTS.get(key.rpartition(".")[2], (RANGES.get(key), None))
        entries = value if isinstance(value, (list, tuple)) else [value]
        if allowed is not None and not all(allowed.holds(entry) for entry in entries):
            errors.append(f"{key} must be {allowed}; got {value!r}.")
        if length is not None and len(entries) != length:
            errors.append(f"{key} must have {length} entries; got {value!r}.")
        if key in OR_NONE and value is not None and not OR_NONE[key].holds(value):
            errors.append(f"{key} must be None or {OR_NONE[key]}; got {value!r}.")
        if key in TEXTS and not all(isinstance(entry, str) for entry in entries):
            errors.append(f"{key} must be a list of names; got {value!r}.")
        if key in AUTO_OR_NUMBER:
            errors += _auto_errors(key, value)
        if key in CHOICES and value not in CHOICES[key]:
            known = ", ".join(repr(choice) for choice in CHOICES[key])
            errors.append(f"{key} must be one of {known}; got {value!r}.")
    return errors
