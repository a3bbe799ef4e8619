"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from cvpods.utils.errors import CheckpointError


def write_atomically(path: Path, write: Any) -> None:
    """Call write(file) on a temporary file beside `path`, flush it to disk, then rename it.

    After a power cut, `path` is as it was before or as it is afterwards.

    Raises:
        OSError: it cannot be written; `path` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except RuntimeError as error:
        # torch.save hides the system's error, a full disk say, behind one of its own.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def append_whole(path: Path, content: bytes) -> None:
    """Append `content` to a file, or leave the file as it is.

    Raises:
        OSError: it cannot be written.
    """
    size = path.stat().st_size if path.exists() else None
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True) if size is None else os.truncate(path, size)
        raise


def _flush_folder(folder: Path) -> None:
    """The rename itself to disk; some systems and file systems have no such call."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove what writes that a kill interrupted left in a folder."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write `content` atomically; folders above it are made.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(content))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error
