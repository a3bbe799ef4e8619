"""Reports of failures in what surrounds the optimiser steps: hooks, writers, evaluations."""

from __future__ import annotations

import traceback

from loguru import logger

from cvpods.engine.memory import first_line, is_dead_worker, is_out_of_memory
from cvpods.utils.errors import PodsError
from cvpods.utils.stop import PeerFailed, Stopped

# What a user can cause or want; anything else is a defect and keeps its traceback.
_EXPECTED = (PodsError, OSError, FloatingPointError, SystemExit, KeyboardInterrupt)


def is_expected(error: BaseException) -> bool:
    """Return whether an error needs no traceback to be understood."""
    return isinstance(error, _EXPECTED) or is_out_of_memory(error) or is_dead_worker(error)


def reason(error: BaseException) -> str:
    """Return the first line of an error, with its type where that is needed."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else repr(error.code)}) was called"
    line, kind = first_line(error), type(error).__name__
    return line if is_expected(error) or line == kind else f"{kind}: {line}"


def log_failure(what: str, error: BaseException, details: bool = True) -> None:
    """Log that something failed and why.

    Args:
        details: add the traceback of an unexpected error.
    """
    text = f"{what}: {reason(error)}"
    if details and not is_expected(error):
        text += "\n" + "".join(traceback.format_exception(error)).rstrip()
    logger.error("{}", text)


def told_to_peers(failure: BaseException | None) -> str | None:
    """Return what the other processes hear of a failure; None where they know it already."""
    known = failure is None or isinstance(failure, (Stopped, PeerFailed))
    return None if known else reason(failure)
