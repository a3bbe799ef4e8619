"""Download of one file, with checks of its content, limits of size and time, and progress."""

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
# Environment variables that limit a download, and their defaults.
MAX_GB = ("CVPODS_MAX_DOWNLOAD_GB", 8.0)
MAX_MINUTES = ("CVPODS_MAX_DOWNLOAD_MINUTES", 120.0)
# Seconds between two log lines about a download.
LOG_INTERVAL = 10.0
_BLOCK = 1 << 18

# A function that reads a file and raises CheckpointError if the file is broken.
Check: TypeAlias = Callable[[Path], object]


@dataclass(frozen=True)
class Request:
    """A file to download.

    Args:
        target: path at which the file is kept.
        source: the address that the user wrote, for messages.
        sha256: the first digits of the file's hash, or "".
        check: see find_file().
    """

    target: Path
    source: str
    sha256: str = ""
    check: Check | None = None


def download_file(url: str, request: Request) -> Path:
    """Download `url` to request.target. An incomplete or refused file is removed.

    Raises:
        CheckpointError: the file is too large, too slow, cut off, a web page, or has another hash.
        OSError, ValueError, HTTPException: the network or the server failed.
    """
    target = request.target
    partial = target.with_name(f"{target.stem}.part{target.suffix}")
    try:
        logger.info(f"Downloading {url}")
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, partial.open("wb") as file:
            _copy(answer, file, target.name)
            expected = answer.headers.get("Content-Length")
            has_end = expected is not None or getattr(answer, "chunked", False)
        size = partial.stat().st_size
        if expected is not None and size != int(expected):
            raise CheckpointError(f"the connection ended after {size:,} bytes")
        _check(partial, request, has_end)
        return partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _check(partial: Path, request: Request, has_end: bool) -> None:
    """Check a downloaded file.

    Args:
        has_end: the server stated where the file ends, so the file is known to be complete.

    Raises:
        CheckpointError: the file is not the requested one, or may be incomplete.
    """
    with partial.open("rb") as file:
        if file.read(64).lstrip()[:1] == b"<":
            raise CheckpointError("the server sent a web page, not a file of weights")
    if request.sha256 and not (found := file_sha256(partial)).startswith(request.sha256):
        raise CheckpointError(f"its SHA-256 is {found}, not {request.sha256}...")
    if not has_end and not request.sha256 and request.check is None:
        raise CheckpointError(
            "the server does not say how long the file is, so a broken one would not be noticed; "
            "write #sha256= and its hash at the end of the address"
        )
    if request.check is not None:
        try:
            request.check(partial)
        except CheckpointError as error:
            reason = str(error).replace(str(partial), request.target.name)
            raise CheckpointError(f"the downloaded file is not kept: {reason}") from None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_limit(variable: str, default: float) -> float:
    """Return the number in an environment variable, or the default.

    Raises:
        CheckpointError: the variable is not a number above 0.
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
    """Copy a server's answer into a file, within the limits, and report the progress."""
    header = answer.headers.get("Content-Length") or ""
    total = int(header) if header.isdigit() else None
    most, minutes = read_limit(*MAX_GB), read_limit(*MAX_MINUTES)
    _check_size(total or 0, most)
    begun = time.monotonic()
    written, next_line = 0, begun + LOG_INTERVAL
    with tqdm(
        total=total, unit="B", unit_scale=True, desc=name[-40:], disable=not is_terminal()
    ) as bar:
        # read() would wait for a full block, however slowly its bytes arrive; read1() does not.
        while block := answer.read1(_BLOCK):
            written += len(block)
            _check_size(written, most)
            file.write(block)
            bar.update(len(block))
            now = time.monotonic()
            if now - begun > 60 * minutes:
                raise CheckpointError(
                    f"it was not complete after {minutes:g} minutes ({written:,} bytes); "
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
