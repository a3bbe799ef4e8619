"""Checks and readers of files that users name: regular files only, and texts in UTF-8."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path
from urllib.parse import unquote


def check_regular(path: str | Path) -> None:
    """Refuse a path that is not a regular file, before it is opened.

    Opening a named pipe would block forever.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the path is a folder, a pipe, a device or a socket.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise OSError(f"it is {kind}, not a regular file")


def read_text(path: str | Path) -> str:
    """Return the text of a regular file in UTF-8, without the byte order mark at its start.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    check_regular(path)
    return Path(path).read_text(encoding="utf-8-sig")


def describe_encoding(path: str | Path) -> str:
    """Return the kind of a file that is not plain UTF-8 text, and a remedy; otherwise ""."""
    starts = {
        b"\x1f\x8b": "it is compressed by gzip; unpack it",
        b"PK\x03\x04": "it is a zip archive; unpack it",
        b"\xff\xfe": "it is text in UTF-16; write it in UTF-8",
        b"\xfe\xff": "it is text in UTF-16; write it in UTF-8",
    }
    try:
        check_regular(path)
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError:
        return ""
    return next((text for sign, text in starts.items() if start.startswith(sign)), "")


def existing_name(root: Path, name: str) -> str:
    """Return the spelling of a file's name under which it exists below `root`.

    Windows tools write cam\\1.jpg for cam/1.jpg, web tools write cam%201.jpg for cam 1.jpg, and
    macOS stores accents separately from their letters. A name that does not exist in any spelling
    is returned as it is.
    """
    if name.isascii() and "\\" not in name and "%" not in name:
        return name
    plain = unquote(name.replace("\\", "/"))
    others = {plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))} - {name}
    if not others or is_file(root / name):
        return name
    return next((other for other in sorted(others) if is_file(root / other)), name)


def is_file(path: Path) -> bool:
    """Return True if a path names a regular file; False for names that a system refuses."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
