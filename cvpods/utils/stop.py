"""Signals as requests to stop at the next good moment, and ends that all processes share."""

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
from cvpods.utils.errors import PodsError

# SIGHUP comes when a terminal closes, SIGUSR1 from SLURM; Windows has neither.
_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# A second one of these ends a process at once. A closed terminal sends SIGHUP several times.
_IMPATIENT = (signal.SIGTERM, signal.SIGINT)
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


class EndNow(SystemExit):
    """The end of a process at its second signal: nothing is saved."""


# What ends a run where a user's code raises it: everything is saved first.
ENDS = (Exception, Stopped, SystemExit, KeyboardInterrupt)


class PeerFailed(PodsError):  # noqa: N818 - the failure is another process'
    """Another process of the group has failed and has told so."""


def caught_signals() -> list[int]:
    """Return the signals that ask for an end here.

    What is ignored at the start stays ignored, as nohup wants it for SIGHUP. SIGINT is caught in
    any case: shells ignore it for every job in the background.
    """
    return [
        number
        for number in STOP_SIGNALS
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
    ]


@contextmanager
def remembering_stop_signals() -> Iterator[None]:
    """Inside, the first stop signal is remembered, see stop_signal, and ends nothing.

    A second SIGTERM or SIGINT ends the process at once, without saving, except in a group of
    processes: there a signal may come from the terminal and from the launcher too. Outside the main
    thread, nothing changes.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in caught_signals()}

    def remember(number: int, frame: FrameType | None) -> None:
        global _received
        if _received in _IMPATIENT:
            if number in _IMPATIENT and comm.get_world_size() == 1:
                raise EndNow(128 + number)
            return
        if _received is None or number in _IMPATIENT:
            _received = number

    _received = None
    for number in before:
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


@contextmanager
def failing_together() -> Iterator[None]:
    """Run a part without which the next collective call has no meaning; every rank must use it.

    Raises:
        PeerFailed: the part has failed on another rank. A rank on which it has failed raises its
            own error.
    """
    failure: BaseException | None = None
    try:
        yield
    except EndNow:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        failure = error
    said = None if failure is None else str(failure).strip() or type(failure).__name__
    failures = comm.all_gather(said)
    if failure is not None:
        raise failure
    raise_failed(failures)


def raise_failed(failures: Iterable[str | None]) -> None:
    """Raise PeerFailed where one of the ranks' failures is not None."""
    for rank, text in enumerate(failures):
        if text is not None:
            raise PeerFailed(f"Rank {rank} has failed: {text}")


def shield_worker() -> None:
    """In a loader's worker: stop signals are the training process' matter.

    They may be sent to all processes of a job at once, and the step that is under way needs its
    images. SIGTERM from the training process itself ends the worker, as ever. A sample that cannot
    be sent, because shared memory is full, ends it too; else the training would wait for ever.

    The worker must have started with the signals blocked, see Loader: SIGTERM would else end it
    through a thread that a library has started meanwhile.
    """
    Queue._on_queue_feeder_error = staticmethod(_die_of)  # type: ignore[method-assign]
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
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
