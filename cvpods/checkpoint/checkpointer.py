"""Checkpoints of a run: written atomically, and read back with clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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

if TYPE_CHECKING:
    from cvpods.configs.config_dict import ConfigDict


class Checkpointable(Protocol):
    """Object with a state that a checkpoint keeps."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class Checkpointer:
    """Saves and loads a model, and any object with state_dict() and load_state_dict().

    Args:
        model: its weights are saved without the prefix of DistributedDataParallel.
        save_dir: folder of the files.
        checkpointables: further objects by the name of their entry ("optimizer", "scheduler");
            None is left out.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | Path = "",
        **checkpointables: Checkpointable | None,
    ) -> None:
        self.model = model.module if isinstance(model, comm.DP_TYPES) else model
        self.save_dir = Path(save_dir)
        self.checkpointables = {k: v for k, v in checkpointables.items() if v is not None}
        self.resumed: Path | None = None  # the file that resume() has loaded

    def save(self, name: str, **extra: Any) -> None:
        """Write `name`.pth and point last_checkpoint to it. Only rank 0 writes.

        Raises:
            CheckpointError: `name`.pth cannot be written. The existing files have not changed.
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
                f"{path} cannot be written: {error}. The checkpoints saved before are intact: make "
                "room, and pods_train --resume continues from the newest one."
            ) from error
        logger.info(f"Saved {path}")
        self._point_to(path)

    def _point_to(self, path: Path) -> None:
        """Write last_checkpoint. A failure is only logged: resume() does not need the pointer."""
        pointer = self.save_dir / LAST_CHECKPOINT
        try:
            write_atomically(pointer, lambda file: file.write(path.name.encode()))
        except OSError as error:
            logger.error(
                f"{pointer} cannot be written: {error}. {path.name} is intact, and pods_train "
                "--resume continues from it all the same."
            )

    def has_checkpoint(self) -> bool:
        """Return True if the folder has a last_checkpoint."""
        return (self.save_dir / LAST_CHECKPOINT).exists()

    def get_checkpoint_file(self) -> Path | None:
        """Return the file that last_checkpoint names, or None if the file does not exist."""
        pointer = self.save_dir / LAST_CHECKPOINT
        try:
            text = pointer.read_text(encoding="utf-8", errors="replace")
            path = self.save_dir / text.strip("\0 \n")
            return path if path.is_file() else None
        except (OSError, ValueError):  # the pointer is missing, or does not hold a name
            return None

    def load(
        self,
        path: str | Path,
        *,
        strict: bool = False,
        use_ema: bool = False,
        config: ConfigDict | None = None,
    ) -> dict[str, Any]:
        """Load the model's weights only.

        Args:
            strict: every tensor of the model must be in the file. Otherwise the tensors that fit
                are loaded, and the log lists the others.
            use_ema: load the averaged weights if the file holds them.
            config: compared with what the weights expect, see check_expectations().

        Returns:
            The file's content; {} if `path` is empty.

        Raises:
            CheckpointError: the file cannot be read, or is of another model or backbone.
            ConfigError: the weights expect another config.
        """
        if not path:
            logger.info("No weights are loaded: the model starts from random weights.")
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
        kind = " averaged" if averaged else ""
        where = f" as {report.prefix}*" if report.prefix else ""
        logger.info(f"Loaded {len(report.loaded)}{kind} tensors from {path}{where}.")
        if description := report.describe():
            logger.log("WARNING" if report.mismatched else "INFO", f"Not loaded:\n{description}")
        return content

    def resume(self) -> dict[str, Any] | None:
        """Load all entries of the readable checkpoint with the highest iteration inside.

        Every rank loads the same file.

        Returns:
            The file's content; None if the folder has no checkpoint.

        Raises:
            CheckpointError: none of the checkpoints can be read, or the file is of another model.
        """
        path, content = self._find_readable() if comm.is_main_process() else (None, None)
        path = comm.all_gather(path)[0]
        if path is None:
            return None
        if not path.is_file():
            raise CheckpointError(
                f"{path}, from which rank 0 resumes, is not on this machine. OUTPUT_DIR must be a "
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
                    logger.warning(f"{path} has no '{name}'; it starts from the beginning.")
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"Cannot resume from {path}: {error}") from error
        self.resumed = path
        logger.info(f"Resumed from {path}.")
        return content

    def _find_readable(self) -> tuple[Path | None, dict[str, Any] | None]:
        """Return the file that resume() loads, and its content."""
        named = self.get_checkpoint_file()
        found = list_checkpoints(self.save_dir)
        extra = [named] if named is not None and named not in found else []
        ranked, damages = rank_checkpoints([*found, *extra])
        readable = set(ranked)
        for path in reversed(ranked):
            content, damage = _try_load(path)
            if content is None:
                damages.append(damage)
                readable.remove(path)
            elif path == named or isinstance(content.get("iteration"), int):
                self._explain(path, named, named in readable, damages)
                return path, content
        if damages:
            raise CheckpointError(
                f"No checkpoint in {self.save_dir} can be read. {' '.join(damages)} To start from "
                "the beginning, move them away."
            )
        return None, None

    def _explain(
        self, path: Path, named: Path | None, is_readable: bool, damages: list[str]
    ) -> None:
        """Log why the run resumes from another file than last_checkpoint names.

        Args:
            path: the file to resume from.
            named: the file that last_checkpoint names.
            is_readable: `named` can be read.
            damages: problems of the files that cannot be read.
        """
        if path == named:
            return
        reason = f"{LAST_CHECKPOINT} does not name an existing file."
        if named is not None and is_readable:
            reason = (
                f"It holds more iterations than {named.name}, which {LAST_CHECKPOINT} names. To "
                f"continue from {named.name}, move newer ones away."
            )
        elif named is not None:
            reason = f"{named.name}, which {LAST_CHECKPOINT} names, cannot be read."
        details = " ".join([reason, *damages])
        logger.warning(f"Resuming from the newest readable checkpoint, {path.name}. {details}")


def _try_load(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Return (content, "") of a checkpoint, or (None, problem) if it cannot be read."""
    try:
        return load_file(path), ""
    except CheckpointError as error:
        return None, str(error)


DefaultCheckpointer = Checkpointer
