"""Setup of the log: the console on rank 0, and log.txt in the output folder."""

from __future__ import annotations

import inspect
import logging
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

from loguru import logger

from cvpods.utils.errors import ConfigError

_FORMAT = (
    "<green>{time:YYYY-MM-DD HH:mm:ss}</green> | <level>{level: <7}</level> | "
    "<cyan>{name}:{line}</cyan> - {message}"
)
_SEEN: Counter[tuple] = Counter()
_SETTINGS: tuple[str | Path | None, int] = (None, 0)


def _write_above_the_bar(message: str) -> None:
    """Write a log line without tearing a progress bar apart."""
    from tqdm import tqdm

    with suppress(OSError):  # the terminal is gone, or the disk is full
        tqdm.write(message, file=sys.stderr, end="")


class _LogFile:
    """Log file that is written line by line.

    A failure to write is reported once on stderr, and lines are dropped until writing works again.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._fails = False

    def write(self, message: str) -> None:
        try:
            self._file.write(message.encode(errors="replace"))
            self._fails = False
        except OSError as error:
            if not self._fails:
                _write_above_the_bar(
                    f"{self.path} cannot be written, and lines are missing there: {error}\n"
                )
            self._fails = True

    def stop(self) -> None:
        self._file.close()


def setup_logger(output: str | Path | None = None, distributed_rank: int = 0) -> None:
    """Send log lines to stderr (rank 0 only) and to a file in the folder `output`.

    The file is log.txt on rank 0, and log.txt.rankN on rank N.

    Raises:
        ConfigError: the file cannot be written.
    """
    global _SETTINGS
    _SETTINGS = (output, distributed_rank)
    logger.remove()
    if distributed_rank == 0:
        logger.add(_write_above_the_bar, format=_FORMAT, colorize=sys.stderr.isatty())
    if output is not None:
        name = "log.txt" if distributed_rank == 0 else f"log.txt.rank{distributed_rank}"
        _log_to(Path(output) / name)


def log_settings() -> tuple[str | Path | None, int]:
    """Return the arguments of the last call of setup_logger() in this process."""
    return _SETTINGS


def _log_to(path: Path) -> None:
    try:
        logger.add(_LogFile(path), format=_FORMAT, colorize=False)
    except OSError as error:
        raise ConfigError(
            f"The log {path} cannot be written: {error}. Remove what is in its place, or name "
            "another folder: OUTPUT_DIR."
        ) from error


def log_first_n(lvl: str | int, msg: str, n: int = 1, *, key: str | tuple = "caller") -> None:
    """Log `msg` only the first `n` times.

    Args:
        lvl: "WARNING" or logging.WARNING.
        key: count the calls of the same line ("caller"), with the same `msg` ("message"), or with
            both the same (a tuple of the two).
    """
    frame = inspect.stack(0)[1]  # 0: without reading source files
    parts = {"caller": (frame.filename, frame.lineno), "message": msg}
    keys = (key,) if isinstance(key, str) else tuple(key)
    identity = tuple(parts[k] for k in keys)
    _SEEN[identity] += 1
    if _SEEN[identity] <= n:
        level = lvl if isinstance(lvl, str) else logging.getLevelName(lvl)
        logger.opt(depth=1).log(level, msg)


def is_terminal() -> bool:
    """Return True if a progress bar can be shown: on rank 0, if stderr is a terminal."""
    from cvpods.utils import comm

    return comm.is_main_process() and sys.stderr.isatty()
