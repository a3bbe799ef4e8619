"""SIGTERM and SIGINT (Ctrl-C) as requests to stop at the next good moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from types import FrameType

from cvpods.utils import comm

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received: int | None = None


class Stopped(BaseException):
    """The run ended because a signal asked for it.

    No Exception: what handles errors must not take it for one.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def status(self) -> int:
        """Exit status by which shells know the signal."""
        return 128 + self.signum

    def __str__(self) -> str:
        return f"Stopped by {signal.Signals(self.signum).name}"


@contextmanager
def remembering_stop_signals() -> Iterator[None]:
    """Inside, the first SIGTERM or SIGINT is remembered, see stop_signal, and ends nothing.

    A second one ends the process at once, without saving, except in a group of processes: there a
    signal may come from the terminal and from the launcher too. Outside the main thread, nothing
    changes.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def remember(number: int, frame: FrameType | None) -> None:
        global _received
        if _received is not None and comm.get_world_size() == 1:
            raise SystemExit(128 + number)
        _received = number

    _received = None
    for number in STOP_SIGNALS:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received = None


def stop_signal() -> int | None:
    """The signal that came to this process, if one did."""
    return _received


def stop_together() -> None:
    """Raise Stopped on every rank where a signal came to one of them; every rank must call it."""
    raise_stopped(comm.all_gather(_received))


def raise_stopped(signals: Iterable[int | None]) -> None:
    """Raise Stopped where one of the ranks' signals is not None."""
    for signum in signals:
        if signum is not None:
            raise Stopped(signum)


def shield_worker() -> None:
    """In a loader's worker: SIGINT and SIGTERM are the training process' matter.

    They may be sent to all processes of a job at once, and the step that is under way needs its
    images. SIGTERM from the training process itself ends the worker, as ever. A sample that cannot
    be sent, because shared memory is full, ends it too; else the training would wait for ever.
    """
    Queue._on_queue_feeder_error = staticmethod(_die_of)  # type: ignore[method-assign]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _die_of(error: Exception, sample: object) -> None:
    print(f"A sample cannot be sent to the training process: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _obey_parent() -> None:
    creator = multiprocessing.parent_process()  # not a fork server in between
    parent = creator.pid if creator is not None else os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
