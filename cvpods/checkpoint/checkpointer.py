"""Checkpoints of a run: written whole or not at all, read back with clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import nn

from cvpods.checkpoint.atomic import write_atomically
from cvpods.checkpoint.expectations import check_expectations
from cvpods.checkpoint.files import load_file
from cvpods.checkpoint.matching import load_weights
from cvpods.checkpoint.newest import LAST_CHECKPOINT, list_checkpoints, rank_checkpoints
from cvpods.utils import comm
from cvpods.utils.errors import CheckpointError


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
        self.resumed: Path | None = None  # the file that resume() has loaded

    def save(self, name: str, **extra: Any) -> None:
        """Write `name`.pth and point last_checkpoint to it; only rank 0 writes.

        Raises:
            CheckpointError: `name`.pth cannot be written; nothing that was there has changed.
        """
        if not comm.is_main_process():
            return
        content = {"model": self.model.state_dict(), **extra}
        content.update({k: v.state_dict() for k, v in self.checkpointables.items()})
        path = self.save_dir / f"{name}.pth"
        try:
            self.save_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: torch.save(content, file))
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be written: {error}. What was saved before is whole: with room to "
                "write, pods_train --resume continues from it."
            ) from error
        logger.info(f"Saved {path}")
        self._point_to(path)

    def _point_to(self, path: Path) -> None:
        """Write last_checkpoint; resume() finds the newest file without it too."""
        pointer = self.save_dir / LAST_CHECKPOINT
        try:
            write_atomically(pointer, lambda file: file.write(path.name.encode()))
        except OSError as error:
            logger.error(
                f"{pointer} cannot be written: {error}. {path.name} is whole, and pods_train "
                "--resume continues from it all the same."
            )

    def has_checkpoint(self) -> bool:
        return (self.save_dir / LAST_CHECKPOINT).exists()

    def get_checkpoint_file(self) -> Path | None:
        """The file that last_checkpoint names; None where it names none that is there."""
        pointer = self.save_dir / LAST_CHECKPOINT
        try:
            path = self.save_dir / pointer.read_text(encoding="utf-8", errors="replace").strip(
                "\0 \n"
            )
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
        """Load everything from the whole checkpoint with the highest iteration inside; all ranks
        from the same.

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
                    obj.load_state_dict(content[name])
                else:
                    logger.warning(f"{path} has no '{name}'; it starts anew.")
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"Cannot resume from {path}: {error}") from error
        self.resumed = path
        logger.info(f"Resumed from {path}.")
        return content

    def _find_whole(self) -> tuple[Path | None, dict[str, Any] | None]:
        """Return the file to resume from, see resume(), and its content."""
        named = self.get_checkpoint_file()
        found = list_checkpoints(self.save_dir)
        extra = [named] if named is not None and named not in found else []
        ranked, damages = rank_checkpoints([*found, *extra])
        whole = set(ranked)
        for path in reversed(ranked):
            content, damage = _read(path)
            if content is None:
                damages.append(damage)
                whole.remove(path)
            elif path == named or isinstance(content.get("iteration"), int):
                self._explain(path, named, named in whole, damages)
                return path, content
        if damages:
            raise CheckpointError(
                f"No checkpoint in {self.save_dir} can be read. {' '.join(damages)} Move them away "
                "to start anew."
            )
        return None, None

    def _explain(self, path: Path, named: Path | None, whole: bool, damages: list[str]) -> None:
        """Log why another file than the one of last_checkpoint is resumed from.

        Args:
            whole: whether the file that it names can be read.
        """
        if path == named:
            return
        why = f"{LAST_CHECKPOINT} does not name a file that is there."
        if named is not None and whole:
            why = (
                f"It holds more iterations than {named.name}, which {LAST_CHECKPOINT} names. To "
                f"continue from {named.name}, move newer ones away."
            )
        elif named is not None:
            why = f"{named.name}, which {LAST_CHECKPOINT} names, cannot be read."
        said = " ".join([why, *damages])
        logger.warning(f"Resuming from the newest whole checkpoint, {path.name}. {said}")


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """A checkpoint's content, or None and what is wrong with the file."""
    try:
        return load_file(path), ""
    except CheckpointError as error:
        return None, str(error)


DefaultCheckpointer = Checkpointer
