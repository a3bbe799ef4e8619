"""The files of a run in OUTPUT_DIR: what an earlier run left there makes room for a new one."""

from __future__ import annotations

from pathlib import Path

from loguru import logger

from cvpods.checkpoint import LAST_CHECKPOINT, list_checkpoints
from cvpods.engine.memory import FOUND

# What belongs to one run, beside its checkpoints.
_OF_A_RUN = (LAST_CHECKPOINT, "metrics.json", "config.json", FOUND, "events.out.tfevents.*")


def set_aside(output: Path) -> None:
    """Move an earlier run's checkpoints and curves to OUTPUT_DIR/earlier_<n>, where there are some.

    So a new run writes over nothing, and --resume cannot go on from the wrong one.
    """
    checkpoints = list_checkpoints(output)
    if not checkpoints and not any((output / name).exists() for name in (LAST_CHECKPOINT, FOUND)):
        return
    number = 1
    while (output / f"earlier_{number}").exists():
        number += 1
    folder = output / f"earlier_{number}"
    folder.mkdir()
    for path in [*checkpoints, *(p for pattern in _OF_A_RUN for p in output.glob(pattern))]:
        path.rename(folder / path.name)
    logger.warning(
        f"{output} holds the checkpoints of an earlier run: they are now in {folder.name}. Use "
        "--resume to go on with a run."
    )
