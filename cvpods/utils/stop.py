"""Stop signals as requests to end a run in good order, and ends that all processes share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from cvpods.utils import comm
from cvpods.utils.errors import PodsError
from cvpods.utils.torch_private import set_queue_error_handler

# A closed terminal sends SIGHUP, and SLURM sends SIGUSR1. Windows has neither.
_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# A second one of these signals ends a process at once. A closed terminal sends SIGHUP repeatedly.
_IMPATIENT = (signal.SIGTERM, signal.SIGINT)
_received: int | None = None


class Stopped(BaseException):
    """End of a run because of a signal.

    It does not derive from Exception, so that code that handles errors does not catch it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status that shells use for the signal."""
        return 128 + self.signum

    def __str__(self) -> str:
        return f"Stopped by {signal.Signals(self.signum).name}"


class EndNow(SystemExit):
    """End of a process at its second signal, without saving."""


# Exceptions that end a run when a user's code raises them. The run is saved first.
ENDS = (Exception, Stopped, SystemExit, KeyboardInterrupt)


class PeerFailed(PodsError):  # noqa: N818 - the failure is another process'
    """Report that another process of the group has failed."""


def caught_signals() -> list[int]:
    """Return the stop signals that this process catches.

    A signal that is ignored at the start stays ignored, as nohup requires for SIGHUP. SIGINT is
    always caught, because shells ignore it for every job in the background.
    """
    return [
        number
        for number in STOP_SIGNALS
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
    ]


@contextmanager
def remembering_stop_signals() -> Iterator[None]:
    """Remember the first stop signal for stop_signal() instead of ending the process.

    A second SIGTERM or SIGINT ends the process at once, without saving. In a group of processes it
    does not, because the terminal and the launcher may both send the signal. Outside the main
    thread, the context does nothing.
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
    """Return the signal that this process received, or None."""
    return _received


def stop_together() -> None:
    """Raise Stopped on every rank if one of them received a signal; every rank must call this."""
    raise_stopped(comm.all_gather(_received))


def raise_stopped(signals: Iterable[int | None]) -> None:
    """Raise Stopped if one of the ranks' signals is not None."""
    for signum in signals:
        if signum is not None:
            raise Stopped(signum)


@contextmanager
def failing_together() -> Iterator[None]:
    """Make every rank fail if the code in the context fails on one rank.

    Every rank must enter the context. A rank on which the code fails raises its own error.

    Raises:
        PeerFailed: the code failed on another rank.
    """
    failure: BaseException | None = None
    try:
        yield
    except EndNow:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        failure = error
    text = None if failure is None else str(failure).strip() or type(failure).__name__
    failures = comm.all_gather(text)
    if failure is not None:
        raise failure
    raise_failed(failures)


def raise_failed(failures: Iterable[str | None]) -> None:
    """Raise PeerFailed if one of the ranks' failures is not None."""
    for rank, text in enumerate(failures):
        if text is not None:
            raise PeerFailed(f"Rank {rank} has failed: {text}")


def shield_worker() -> None:
    """Make a loader's worker ignore the stop signals of others; call this in the worker.

    A signal may be sent to all processes of a job at once, and the current step of the training
    still needs its images. SIGTERM from the training process itself ends the worker as usual. A
    sample that cannot be sent, because shared memory is full, also ends the worker; otherwise, the
    training would wait forever.

    The worker must have started with the signals blocked, see Loader. Otherwise, SIGTERM would end
    it through a thread that a library has started in the meantime.
    """
    set_queue_error_handler(_exit_on_unsent_sample)
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # missing on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _exit_on_unsent_sample(error: Exception, sample: object) -> None:
    print(f"A sample cannot be sent to the training process: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _obey_parent() -> None:
    """Wait for SIGTERM from the training process, then end the worker."""
    creator = multiprocessing.parent_process()  # os.getppid() may be a fork server
    parent = creator.pid if creator is not None else os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
