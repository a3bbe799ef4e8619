"""One file over the network: whole, checked, within limits of size and time, with its progress."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from loguru import logger
from tqdm import tqdm

from cvpods.utils.errors import CheckpointError
from cvpods.utils.logger import is_terminal

# Seconds without an answer or without further bytes.
TIMEOUT = 30.0
# Limits of one download, and the variables that change them.
MAX_GB = ("CVPODS_MAX_DOWNLOAD_GB", 8.0)
MAX_MINUTES = ("CVPODS_MAX_DOWNLOAD_MINUTES", 120.0)
# Seconds between two lines in the log about a download.
LOG_INTERVAL = 10.0
_BLOCK = 1 << 18

# Reads a file and raises what a broken one makes it raise.
Check: TypeAlias = Callable[[Path], Any]


@dataclass(frozen=True)
class Wanted:
    """A file that is to be downloaded.

    Args:
        target: where it is kept.
        asked: what the user wrote, for messages.
        sha256: the first digits of its hash, or "".
        check: see find_file().
    """

    target: Path
    asked: str
    sha256: str = ""
    check: Check | None = None


def download_one(url: str, wanted: Wanted) -> Path:
    """Download `url` to wanted.target; nothing stays behind unless it is whole and passes.

    Raises:
        CheckpointError: it is too large, too slow, cut off, a web page, or another file.
        OSError, ValueError, HTTPException: of the network and of the server.
    """
    target = wanted.target
    partial = target.with_name(f"{target.stem}.part{target.suffix}")
    try:
        logger.info(f"Downloading {url}")
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, partial.open("wb") as file:
            _copy(answer, file, target.name)
            expected = answer.headers.get("Content-Length")
            ends = expected is not None or getattr(answer, "chunked", False)
        size = partial.stat().st_size
        if expected is not None and size != int(expected):
            raise CheckpointError(f"the connection ended after {size:,} bytes")
        _check(partial, wanted, ends)
        return partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _check(partial: Path, wanted: Wanted, ends: bool) -> None:
    """Check a downloaded file.

    Args:
        ends: the server said where the file ends, so that it is known to be whole.
    """
    with partial.open("rb") as file:
        if file.read(64).lstrip()[:1] == b"<":
            raise CheckpointError("it answers with a web page, not with a file of weights")
    if wanted.sha256 and not (found := file_sha256(partial)).startswith(wanted.sha256):
        raise CheckpointError(f"its SHA-256 is {found}, not {wanted.sha256}...")
    if not ends and not wanted.sha256 and wanted.check is None:
        raise CheckpointError(
            "the server does not say how long the file is, so a broken one would not be noticed; "
            "write #sha256= and its hash at the end of the address"
        )
    if wanted.check is not None:
        try:
            wanted.check(partial)
        except CheckpointError as error:
            said = str(error).replace(str(partial), wanted.target.name)
            raise CheckpointError(f"what was downloaded is not kept: {said}") from None


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def limit(variable: str, default: float) -> float:
    """Return the number in an environment variable, or the default.

    Raises:
        CheckpointError: it is not a number above 0.
    """
    text = os.environ.get(variable) or default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value > 0:
        raise CheckpointError(f"${variable} must be a number above 0; got {text!r}.")
    return value


def _copy(answer: Any, file: IO[bytes], name: str) -> None:
    """Copy an answer into a file, within the limits; tell how far it is."""
    header = answer.headers.get("Content-Length") or ""
    total = int(header) if header.isdigit() else None
    most, minutes = limit(*MAX_GB), limit(*MAX_MINUTES)
    _check_size(total or 0, most)
    begun = time.monotonic()
    written, next_line = 0, begun + LOG_INTERVAL
    with tqdm(
        total=total, unit="B", unit_scale=True, desc=name[-40:], disable=not is_terminal()
    ) as bar:
        # read1, not read: that waits for a whole block, however slowly its bytes come.
        while block := answer.read1(_BLOCK):
            written += len(block)
            _check_size(written, most)
            file.write(block)
            bar.update(len(block))
            now = time.monotonic()
            if now - begun > 60 * minutes:
                raise CheckpointError(
                    f"it was not whole after {minutes:g} minutes ({written:,} bytes); "
                    f"export {MAX_MINUTES[0]}=N waits longer"
                )
            if now > next_line and bar.disable:
                next_line = now + LOG_INTERVAL
                share = f" of {total / 1e6:,.0f}" if total else ""
                logger.info(f"Downloading {name}: {written / 1e6:,.0f}{share} MB")


def _check_size(size: int, most: float) -> None:
    if size > most * 1e9:
        raise CheckpointError(
            f"it has more than {most:g} GB ({size:,} bytes); export {MAX_GB[0]}=N allows more"
        )
