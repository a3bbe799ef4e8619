"""Checkpoints of a run: written whole or not at all, read back with clear errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import nn

from cvpods.checkpoint.atomic import write_atomically
from cvpods.checkpoint.expectations import check_expectations
from cvpods.checkpoint.files import load_file
from cvpods.checkpoint.matching import load_weights
from cvpods.utils import comm
from cvpods.utils.errors import CheckpointError

LAST_CHECKPOINT = "last_checkpoint"
# model_iter_0010000.pth, model_0009999.pth (0-based, older cvpods), model_epoch_0001.pth.
_NAME = re.compile(r"^model_(?:(?P<kind>iter|epoch)_)?(?P<number>\d+|final)\.pth$")


class Checkpointer:
    """Saves and loads a model and whatever else has state_dict / load_state_dict.

    Args:
        model: its weights are saved without the prefix of DistributedDataParallel.
        save_dir: where files go.
        checkpointables: further objects by the name of their entry ("optimizer", "scheduler").
    """

    def __init__(self, model: nn.Module, save_dir: str | Path = "", **checkpointables: Any) -> None:
        self.model = model.module if isinstance(model, comm.DP_TYPES) else model
        self.save_dir = Path(save_dir)
        self.checkpointables = {k: v for k, v in checkpointables.items() if v is not None}

    def save(self, name: str, **extra: Any) -> None:
        """Write `name`.pth and point last_checkpoint to it; only rank 0 writes.

        Raises:
            CheckpointError: it cannot be written; nothing that was there has changed.
        """
        if not comm.is_main_process():
            return
        content = {"model": self.model.state_dict(), **extra}
        content.update({k: v.state_dict() for k, v in self.checkpointables.items()})
        path = self.save_dir / f"{name}.pth"
        try:
            self.save_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: torch.save(content, file))
            write_atomically(
                self.save_dir / LAST_CHECKPOINT, lambda file: file.write(path.name.encode())
            )
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be written: {error}. What was saved before is whole: with room to "
                "write, pods_train --resume goes on from it."
            ) from error
        logger.info(f"Saved {path}")

    def has_checkpoint(self) -> bool:
        return (self.save_dir / LAST_CHECKPOINT).exists()

    def get_checkpoint_file(self) -> Path | None:
        """The file that last_checkpoint names; None where it names none that is there."""
        pointer = self.save_dir / LAST_CHECKPOINT
        try:
            path = self.save_dir / pointer.read_text(errors="replace").strip("\0 \n")
            return path if path.is_file() else None
        except (OSError, ValueError):  # no pointer, or one that holds no name
            return None

    def load(
        self,
        path: str | Path,
        *,
        strict: bool = False,
        use_ema: bool = False,
        config: Any = None,
    ) -> dict[str, Any]:
        """Load model weights only; returns the file's content, {} without a path.

        Args:
            strict: every tensor of the model must be in the file; otherwise what fits is taken,
                and what does not is listed in the log.
            use_ema: take the averaged weights where the file holds them.
            config: checked against what the weights expect, see check_expectations.
        """
        if not path:
            logger.info("No weights are loaded: the model starts from random ones.")
            return {}
        content = load_file(path)
        if config is not None:
            check_expectations(config, content["expects"], f"MODEL.WEIGHTS {path}")
        averaged = use_ema and isinstance(content.get("ema"), dict)
        weights = content["ema" if averaged else "model"]
        try:
            report = load_weights(self.model, weights, strict=strict)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        if wrong := [entry for entry in report.mismatched if entry.startswith("backbone.")]:
            raise CheckpointError(
                f"{path} is of another backbone than the config's: {', '.join(wrong[:4])}."
            )
        what = " averaged" if averaged else ""
        where = f" as {report.prefix}*" if report.prefix else ""
        logger.info(f"Loaded {len(report.loaded)}{what} tensors from {path}{where}.")
        if description := report.describe():
            logger.log("WARNING" if report.mismatched else "INFO", f"Not loaded:\n{description}")
        return content

    def resume(self) -> dict[str, Any] | None:
        """Load everything from the checkpoint that last_checkpoint names, or, where that is missing
        or damaged, from the newest whole one; all ranks from the same.

        Returns:
            The file's content; None where there is no checkpoint.

        Raises:
            CheckpointError: there are checkpoints and none is whole, or it is of another model.
        """
        path, content = self._find_whole() if comm.is_main_process() else (None, None)
        path = comm.all_gather(path)[0]
        if path is None:
            return None
        if not path.is_file():
            raise CheckpointError(
                f"{path}, from which rank 0 goes on, is not on this machine. OUTPUT_DIR must be a "
                "folder that all machines share."
            )
        if content is None:
            content = load_file(path)
        try:
            load_weights(self.model, content["model"], strict=True)
            for name, obj in self.checkpointables.items():
                if name in content:
                    _check_groups(obj, content[name])
                    obj.load_state_dict(content[name])
                else:
                    logger.warning(f"{path} has no '{name}'; it starts anew.")
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"Cannot resume from {path}: {error}") from error
        logger.info(f"Resumed from {path}.")
        return content

    def _newer_than_pointer(self) -> Path | None:
        """The newest file by name, where it was written after last_checkpoint was: a kill came
        between the two.
        """
        numbered = [p for p in list_checkpoints(self.save_dir) if iteration_of(p) != float("inf")]
        pointer = self.save_dir / LAST_CHECKPOINT
        if not numbered or not pointer.is_file():
            return None
        written = numbered[-1].stat().st_mtime_ns > pointer.stat().st_mtime_ns
        return numbered[-1] if written else None

    def _find_whole(self) -> tuple[Path | None, dict[str, Any] | None]:
        """The file to resume from, see resume(), and its content."""
        for path in (self._newer_than_pointer(), self.get_checkpoint_file()):
            content, _ = _read(path) if path is not None else (None, "")
            if content is not None:
                return path, content
        whole: list[tuple[int, Path, dict[str, Any]]] = []
        damaged = []
        # By name; model_final comes first, though a longer run may have gone on from it.
        for path in reversed(list_checkpoints(self.save_dir)):
            content, damage = _read(path)
            if content is None:
                damaged.append(damage)
                continue
            whole.append((content.get("iteration", -1), path, content))
            if iteration_of(path) != float("inf"):
                break
        iteration, path, content = max(whole, key=lambda w: w[0], default=(-1, None, None))
        if iteration >= 0:
            logger.warning(
                f"{LAST_CHECKPOINT} names no whole checkpoint; going on from the newest whole one, "
                f"{path.name}. {' '.join(damaged)}"
            )
            return path, content
        if damaged:
            raise CheckpointError(
                f"No checkpoint in {self.save_dir} can be read. {' '.join(damaged)} Move them away "
                "to start anew."
            )
        return None, None


def _check_groups(obj: Any, saved: Any) -> None:
    """An optimiser takes another one's state without a word, and fails at its first step."""
    groups = [getattr(obj, "param_groups", None), saved.get("param_groups")]
    if all(groups) and not groups[0][0].keys() <= groups[1][0].keys() | {"initial_lr"}:
        missing = sorted(groups[0][0].keys() - groups[1][0].keys())
        raise CheckpointError(f"it is of another SOLVER.OPTIMIZER.NAME: it has no {missing}.")


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """A checkpoint's content, or None and what is wrong with the file."""
    try:
        return load_file(path), ""
    except CheckpointError as error:
        return None, str(error)


DefaultCheckpointer = Checkpointer


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
