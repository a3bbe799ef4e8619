"""The files of a run in OUTPUT_DIR: what an earlier run left there makes room for a new one."""

from __future__ import annotations

from pathlib import Path

from loguru import logger

from cvpods.checkpoint import LAST_CHECKPOINT, list_checkpoints
from cvpods.engine.memory import FOUND

# What belongs to one run, beside its checkpoints.
_OF_A_RUN = (
    LAST_CHECKPOINT,
    "metrics.json",
    "config.json",
    FOUND,
    "events.out.tfevents.*",
    "nonfinite_*.pt",
    "inference",
    "inference_TTA",
)


def set_aside(output: Path) -> None:
    """Move all files of an earlier run to OUTPUT_DIR/earlier_<n>.

    So a new run overwrites nothing, and --resume cannot continue from the wrong one.
    """
    checkpoints = list_checkpoints(output)
    found = [*checkpoints, *(p for pattern in _OF_A_RUN for p in output.glob(pattern))]
    if not found:
        return
    folder = _move(found, output)
    what = "checkpoints" if checkpoints else "files"
    logger.warning(
        f"{output} holds the {what} of an earlier run: they are now in {folder.name}. Use "
        "--resume to continue a run."
    )


def set_weights_aside(output: Path) -> None:
    """Move weights without an iteration, which --resume cannot continue, to earlier_<n>."""
    found = list_checkpoints(output)
    if not found:
        return
    folder = _move(found, output)
    names = ", ".join(path.name for path in found)
    logger.warning(
        f"{output} holds weights without an iteration to resume ({names}): they are now in "
        f"{folder.name}. To start from them, write MODEL.WEIGHTS {folder / found[-1].name}"
    )


def _move(found: list[Path], output: Path) -> Path:
    number = 1
    while (output / f"earlier_{number}").exists():
        number += 1
    folder = output / f"earlier_{number}"
    folder.mkdir()
    for path in found:
        path.rename(folder / path.name)
    return folder
