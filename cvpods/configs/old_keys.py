"""Keys of older cvpods configurations, moved to their present places."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

# {mode: {old key: keyword of the first ResizeShortestEdge in the pipeline of that mode}}.
_RESIZE_KEYS = {
    "TRAIN": {
        "MIN_SIZE_TRAIN": "short_edge_length",
        "MIN_SIZE_TRAIN_SAMPLING": "sample_style",
        "MAX_SIZE_TRAIN": "max_size",
    },
    "TEST": {"MIN_SIZE_TEST": "short_edge_length", "MAX_SIZE_TEST": "max_size"},
}
_SOLVER_KEYS = {
    "LR_SCHEDULER": {
        "LR_SCHEDULER_NAME": "NAME",
        **{k: k for k in ("MAX_ITER", "STEPS", "GAMMA")},
        **{k: k for k in ("WARMUP_FACTOR", "WARMUP_ITERS", "WARMUP_METHOD")},
    },
    "OPTIMIZER": {
        **{k: k for k in ("BASE_LR", "BIAS_LR_FACTOR", "MOMENTUM")},
        **{k: k for k in ("WEIGHT_DECAY", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS")},
    },
}


def migrate_old_keys(config: Mapping, current: Mapping) -> dict[str, Any]:
    """Return a copy of `config` in which old keys are moved to their present places.

    These are INPUT.{MIN,MAX}_SIZE_{TRAIN,TEST}[_SAMPLING], the flat SOLVER keys, and TRAINER.FP16.
    Each moved group causes a DeprecationWarning.

    Args:
        current: supplies the pipelines that INPUT's keys edit.
    """
    config = {k: dict(v) if isinstance(v, Mapping) else v for k, v in config.items()}
    if isinstance(config.get("INPUT"), dict):
        _migrate_input(config["INPUT"], current.get("INPUT", {}))
    if isinstance(config.get("SOLVER"), dict):
        _migrate_solver(config["SOLVER"])
    if isinstance(config.get("TRAINER"), dict):
        _migrate_fp16(config["TRAINER"])
    return config


def _migrate_input(group: dict, current: Mapping) -> None:
    """Move the old sizes of INPUT into the pipelines."""
    for mode, keys in _RESIZE_KEYS.items():
        moved = {new: group.pop(old) for old, new in keys.items() if old in group}
        if not moved:
            continue
        pipelines = {**current.get("AUG", {}), **group.get("AUG", {})}
        pipeline = copy.deepcopy(list(pipelines.get(f"{mode}_PIPELINES", [])))
        resize = next((step for step in pipeline if step[0] == "ResizeShortestEdge"), None)
        if resize is None:
            _warn(f"INPUT.{'/'.join(keys)} ignored: INPUT.AUG.{mode}_PIPELINES does not resize.")
            continue
        resize[1].update(moved)
        group["AUG"] = {**group.get("AUG", {}), f"{mode}_PIPELINES": pipeline}
        _warn(f"INPUT.{'/'.join(keys)} moved to INPUT.AUG.{mode}_PIPELINES.")


def _migrate_solver(group: dict) -> None:
    """Move flat keys of SOLVER into their groups."""
    for target, keys in _SOLVER_KEYS.items():
        found = [old for old in keys if old in group]
        if found:
            moved = {keys[old]: group.pop(old) for old in found}
            group[target] = {**group.get(target, {}), **moved}
            _warn(f"SOLVER.{'/'.join(found)} moved to SOLVER.{target}.")


def _migrate_fp16(group: dict) -> None:
    """Replace TRAINER.FP16 by TRAINER.AMP."""
    fp16 = group.pop("FP16", None)
    if fp16.get("ENABLED") if isinstance(fp16, Mapping) else fp16:
        group["AMP"] = {**group.get("AMP", {}), "ENABLED": True, "DTYPE": "fp16"}
        _warn("TRAINER.FP16 moved to TRAINER.AMP: torch.amp replaces NVIDIA apex.")


def _warn(message: str) -> None:
    """Warn on behalf of the code that defines the config."""
    warnings.warn(message, DeprecationWarning, stacklevel=5)
