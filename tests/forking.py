"""Work in forked children, which end with the status that a command of its own would have."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def fork(work: Callable[[], object]) -> int:
    """Start `work` in a forked child and return the child's process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1  # as of any uncaught error
    try:
        work()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def status_of(pid: int) -> int:
    """Wait for a child; return its exit status, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def print_to(path: Path, flags: int) -> None:
    """Let standard output and standard error go to a file, opened with further `flags`."""
    log = os.open(path, os.O_CREAT | os.O_WRONLY | flags)
    os.dup2(log, 1)
    os.dup2(log, 2)
