"""Errors of the commands: one message and an exit status for those that a user can act on."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cvpods.utils.errors import PodsError
from cvpods.utils.handles import describe_handles, is_out_of_handles, scarcity_hint

_FOR_USERS = (PodsError, FloatingPointError)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Print an error that a user can act on as one message and exit with status 1.

    Other errors are defects of the program and keep their traceback.
    """
    if "loguru" in sys.modules:  # otherwise the log is set up once the overrides are checked
        from cvpods.utils.logger import setup_logger

        setup_logger()
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        text = explain(error)
        if text is None:
            raise
        print(f"error: {text}", file=sys.stderr)
        sys.exit(1)


def explain(error: Exception) -> str | None:
    """Return what to tell a user about an error; None for a defect of the program."""
    if is_out_of_handles(error):
        return describe_handles()
    if isinstance(error, _FOR_USERS):
        return _message(error)
    if "torch" in sys.modules and (text := _explain_memory(error)):
        return text
    if isinstance(error, OSError):
        return _explain_file(error)
    return None


def _explain_memory(error: Exception) -> str | None:
    """Return what to tell about spent memory or a worker that died; None for other errors."""
    from cvpods.engine import error_kinds, memory

    if error_kinds.is_dead_worker(error):
        return f"{memory.dead_worker_advice(error)}{scarcity_hint()}"
    if error_kinds.is_out_of_memory(error):
        return f"Out of memory: {error_kinds.first_line(error)}. {memory.step_advice(1)}"
    return None


def _explain_file(error: OSError) -> str | None:
    """Return what to tell about a full disk or a file that cannot be used; None otherwise."""
    if error.errno in _NO_SPACE:
        return (
            f"No space is left to write {error.filename or 'a file'}: {error.strerror}. Make room "
            "and repeat the command; pods_train continues a run with --resume."
        )
    if error.filename is None:
        return None
    return f"{error.filename} cannot be used: {error.strerror}. Change it, or name another path."


def _message(error: Exception) -> str:
    """Return an error's own words, without the traceback that a loader's worker adds to them."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rpartition(f"{type(error).__name__}: ")[2].strip()
