"""Reports of failures in hooks, writers and evaluations, around the optimiser steps."""

from __future__ import annotations

import traceback

from loguru import logger

from cvpods.engine.error_kinds import first_line, is_dead_worker, is_out_of_memory
from cvpods.utils.errors import PodsError
from cvpods.utils.stop import PeerFailed, Stopped

# Errors that a user can cause or ask for; any other one is a defect and keeps its traceback.
_EXPECTED = (PodsError, OSError, FloatingPointError, SystemExit, KeyboardInterrupt)


def is_expected(error: BaseException) -> bool:
    """Return whether an error can be understood without its traceback."""
    return isinstance(error, _EXPECTED) or is_out_of_memory(error) or is_dead_worker(error)


def describe_error(error: BaseException) -> str:
    """Return the first line of an error, with the name of its type if it is unexpected."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else repr(error.code)}) was called"
    line, kind = first_line(error), type(error).__name__
    return line if is_expected(error) or line == kind else f"{kind}: {line}"


def log_failure(what: str, error: BaseException, details: bool = True) -> None:
    """Log that something failed and why.

    Args:
        details: add the traceback of an unexpected error.
    """
    text = f"{what}: {describe_error(error)}"
    if details and not is_expected(error):
        text += "\n" + "".join(traceback.format_exception(error)).rstrip()
    logger.error("{}", text)


def message_to_peers(failure: BaseException | None) -> str | None:
    """Return what to tell the other processes about a failure; None if they know it already."""
    if failure is None or isinstance(failure, (Stopped, PeerFailed)):
        return None
    return describe_error(failure)
