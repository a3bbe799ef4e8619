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
    number = 1
    while (output / f"earlier_{number}").exists():
        number += 1
    folder = output / f"earlier_{number}"
    folder.mkdir()
    for path in found:
        path.rename(folder / path.name)
    what = "checkpoints" if checkpoints else "files"
    logger.warning(
        f"{output} holds the {what} of an earlier run: they are now in {folder.name}. Use "
        "--resume to go on with a run."
    )
