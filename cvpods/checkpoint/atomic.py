"""Writers that leave a file complete, or as it was before."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from cvpods.utils.errors import CheckpointError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call write(file) on a temporary file beside `path`, flush it to disk, then rename it.

    After a power cut, `path` holds either the old content or the new content.

    Raises:
        OSError: the file cannot be written; `path` keeps its old content.
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
        # torch.save hides the system's error, such as a full disk, behind a RuntimeError.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def append_atomically(path: Path, content: bytes) -> None:
    """Append all of `content` to a file, or leave the file as it is.

    Raises:
        OSError: the file cannot be written.
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
    """Flush a rename to disk. Some operating systems and file systems do not support this."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed writes left in a folder."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write `content` atomically, and create the folders above the file.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(content))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error
