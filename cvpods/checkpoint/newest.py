"""Search for the newest checkpoint of a folder: the one with the highest iteration inside."""

from __future__ import annotations

import re
from pathlib import Path

from cvpods.checkpoint.files import read_entries
from cvpods.utils.errors import CheckpointError
from cvpods.utils.logger import log_first_n

LAST_CHECKPOINT = "last_checkpoint"
# model_iter_0010000.pth, model_0009999.pth (0-based, older cvpods), model_epoch_0001.pth.
_NAME = re.compile(r"^model_(?:(?P<kind>iter|epoch)_)?(?P<number>\d+|final)\.pth$")


def iteration_of(path: Path) -> float | None:
    """Return the number of finished iterations (or epochs) in a file's name.

    It is infinity for model_final.pth, and None for any other name.
    """
    match = _NAME.match(path.name)
    if match is None:
        return None
    if match["number"] == "final":
        return float("inf")
    return int(match["number"]) + (match["kind"] is None)


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Return all model_*.pth of a folder, in the order of the iterations in their names."""
    named = [(iteration_of(path), path) for path in Path(folder).glob("model_*.pth")]
    return [path for _, path in sorted((n, p) for n, p in named if n is not None)]


def read_iteration(path: Path) -> int | None:
    """Return the last iteration that a checkpoint holds.

    It is None for a file of weights alone, and for a file that cannot be read. The weights are not
    read, so this is fast for a file of any size.
    """
    try:
        iteration = read_entries(path).get("iteration")
    except CheckpointError:
        return None
    return iteration if isinstance(iteration, int) else None


def rank_checkpoints(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Sort checkpoints by the iteration inside, the newest last.

    Files without an iteration (weights alone) come first, in the order of their names. model_final
    comes after a file of the same iteration.

    Returns:
        The sorted paths without the files that cannot be read, and the problems of those files.
    """
    ranked, damages = [], []
    for path in paths:
        try:
            inside = read_entries(path).get("iteration")
        except CheckpointError as error:
            damages.append(str(error))
            continue
        by_name = iteration_of(path)
        by_name = -1.0 if by_name is None else by_name
        is_known = isinstance(inside, int)
        ranked.append(((is_known, inside if is_known else by_name, by_name), path))
    return [path for _, path in sorted(ranked)], damages


def newest_checkpoint(output_dir: str | Path) -> Path:
    """Return the checkpoint of a folder with the highest iteration inside.

    Raises:
        CheckpointError: the folder has no checkpoint.
    """
    found = list_checkpoints(output_dir)
    if not found:
        raise CheckpointError(
            f"{output_dir} has no checkpoint. Train first, or name a file: MODEL.WEIGHTS x.pth "
            '(in Python: weights="x.pth").'
        )
    ranked, damages = rank_checkpoints(found)
    if not ranked:
        return found[-1]  # the caller's read of this file reports the problem
    for damage in damages:
        log_first_n("WARNING", f"Skipped: {damage}", key="message")
    return ranked[-1]
