"""The newest checkpoint of a folder: the one with the highest iteration inside."""

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
    """Number of finished iterations (or epochs) that a file's name says; inf for model_final."""
    match = _NAME.match(path.name)
    if match is None:
        return None
    if match["number"] == "final":
        return float("inf")
    return int(match["number"]) + (match["kind"] is None)


def list_checkpoints(folder: str | Path) -> list[Path]:
    """All model_*.pth of a folder, by the iteration that their names say."""
    named = [(iteration_of(path), path) for path in Path(folder).glob("model_*.pth")]
    return [path for _, path in sorted((n, p) for n, p in named if n is not None)]


def iteration_inside(path: Path) -> int | None:
    """Return the last iteration that a checkpoint holds; None for weights alone or no whole file.

    Weights are not read, so this is fast for a file of any size.
    """
    try:
        iteration = read_entries(path).get("iteration")
    except CheckpointError:
        return None
    return iteration if isinstance(iteration, int) else None


def rank_checkpoints(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Sort checkpoints by the iteration inside, the newest last.

    A file without an iteration, weights alone, comes before those with one, by its name. A tie goes
    to model_final.

    Returns:
        The sorted paths, and what is wrong with each file that cannot be read, which is not there.
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
        known = isinstance(inside, int)
        ranked.append(((known, inside if known else by_name, by_name), path))
    return [path for _, path in sorted(ranked)], damages


def newest_checkpoint(output_dir: str | Path) -> Path:
    """Return the checkpoint of a folder with the highest iteration inside.

    Raises:
        CheckpointError: there is none.
    """
    found = list_checkpoints(output_dir)
    if not found:
        raise CheckpointError(
            f"{output_dir} has no checkpoint. Train first, or name a file: MODEL.WEIGHTS x.pth "
            '(in Python: weights="x.pth").'
        )
    ranked, damages = rank_checkpoints(found)
    if not ranked:
        return found[-1]  # whoever reads it says what is wrong
    for damage in damages:
        log_first_n("WARNING", f"Passed over: {damage}", key="message")
    return ranked[-1]
