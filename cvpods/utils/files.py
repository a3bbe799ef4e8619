"""Files that users name: regular ones only, texts in UTF-8."""

from __future__ import annotations

import os
import stat
from pathlib import Path


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
