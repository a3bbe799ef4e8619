"""Files that users name: regular ones only, texts in UTF-8."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote


def check_regular(path: str | Path) -> None:
    """Refuse what is not a regular file before it is opened: a named pipe would block for ever.

    Raises:
        FileNotFoundError: it does not exist.
        OSError: it is a folder, a pipe, a device or a socket.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise OSError(f"it is {kind}, not a regular file")


def read_text(path: str | Path) -> str:
    """Return the text of a regular file in UTF-8, without the byte order mark at its start.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    check_regular(path)
    return Path(path).read_text(encoding="utf-8-sig")


def existing_name(root: Path, name: str) -> str:
    """Return the notation of a file's name under which it exists below `root`.

    Windows' tools write cam\\1.jpg for cam/1.jpg, and tools of the web cam%201.jpg for cam 1.jpg.
    A name that exists in no notation is returned as it is.
    """
    other = unquote(name.replace("\\", "/"))
    if other == name or is_file(root / name) or not is_file(root / other):
        return name
    return other


def is_file(path: Path) -> bool:
    """Return whether a path names a regular file; False for names that no system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
