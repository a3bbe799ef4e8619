"""The files of a run in OUTPUT_DIR: those of an earlier run make room for a new one."""

from __future__ import annotations

from pathlib import Path

from loguru import logger

from cvpods.checkpoint import LAST_CHECKPOINT, list_checkpoints
from cvpods.engine import auto_batch

# The files of one run, apart from its checkpoints.
_RUN_FILES = (
    LAST_CHECKPOINT,
    "metrics.json",
    "config.json",
    auto_batch.FILE_NAME,
    "events.out.tfevents.*",
    "nonfinite_*.pt",
    "inference",
    "inference_TTA",
)


def set_aside(output: Path) -> None:
    """Move all files of an earlier run to OUTPUT_DIR/earlier_<n>.

    A new run then overwrites nothing, and --resume cannot continue from the wrong run.
    """
    checkpoints = list_checkpoints(output)
    paths = [*checkpoints, *(p for pattern in _RUN_FILES for p in output.glob(pattern))]
    if not paths:
        return
    folder = _move(paths, output)
    what = "checkpoints" if checkpoints else "files"
    logger.warning(
        f"{output} holds the {what} of an earlier run: they are now in {folder.name}. Use "
        "--resume to continue a run."
    )


def set_weights_aside(output: Path) -> None:
    """Move weights without an iteration, which --resume cannot continue, to earlier_<n>."""
    paths = list_checkpoints(output)
    if not paths:
        return
    folder = _move(paths, output)
    names = ", ".join(path.name for path in paths)
    logger.warning(
        f"{output} holds weights without an iteration to resume ({names}): they are now in "
        f"{folder.name}. To start from them, write MODEL.WEIGHTS {folder / paths[-1].name}"
    )


def _move(paths: list[Path], output: Path) -> Path:
    """Move files to the first OUTPUT_DIR/earlier_<n> that does not exist, and return it."""
    number = 1
    while (output / f"earlier_{number}").exists():
        number += 1
    folder = output / f"earlier_{number}"
    folder.mkdir()
    for path in paths:
        path.rename(folder / path.name)
    return folder
