"""The meeting of a run's launchers, one per machine, before torch starts their processes."""

from __future__ import annotations

import contextlib
import datetime
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from loguru import logger

from cvpods.engine.error_kinds import first_line
from cvpods.utils.errors import PodsError

# Seconds between two checks for further machines.
_PAUSE = 0.2
# Seconds that a machine which accepts connections has to answer.
_ANSWER = 10.0
_ALL_HERE = "pods/all_here"
_MACHINES = "pods/machines"


class MeetingFailed(PodsError):  # noqa: N818 - reads better than MeetingFailedError
    """The machines of a run did not find each other."""


@dataclass(frozen=True)
class Place:
    """Address at which the launchers of all machines meet.

    Args:
        host: name or address of machine 0.
        port: a free port of machine 0.
        machines: number of machines.
        minutes: time that each launcher waits for the others.
    """

    host: str
    port: int
    machines: int = 1
    minutes: float = 10.0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def patience(self) -> str:
        return f"{self.minutes:g} minutes"


def meet(place: Place, rank: int) -> dist.TCPStore:
    """Wait until the launchers of all machines are at `place`.

    Returns:
        The store that they share. Machine 0 serves it from a thread while the object lives; torch's
        launcher opens its own on the same port and shares the server.

    Raises:
        MeetingFailed: the message names the case and the way out.
    """
    try:
        socket.getaddrinfo(place.host, place.port)
    except (OSError, UnicodeError) as error:
        raise MeetingFailed(
            f"--dist-url: the host {place.host!r} is unknown on this machine ({error}). Write the "
            "name or address under which every machine reaches machine 0."
        ) from None
    if rank == 0:
        return _host(place)
    return _join(place, rank)


# -- machine 0 -------------------------------------------------------------------------------------


def _host(place: Place) -> dist.TCPStore:
    """Serve the store, and wait for the other machines."""
    _check_port(place)
    store = _serve(place)
    store.set(_MACHINES, str(place.machines))
    if place.machines > 1:
        _check_own_address(place, store)
        _wait_for_others(place, store)
    store.set(_ALL_HERE, "1")
    return store


def _check_port(place: Place) -> None:
    try:
        socket.create_server(("", place.port)).close()
    except OSError as error:
        raise MeetingFailed(
            f"--dist-url: port {place.port} of this machine cannot be opened ({error}); another "
            "program may use it. Write another port, the same on every machine."
        ) from None


def _check_own_address(place: Place, store: dist.TCPStore) -> None:
    """Check that the host is this machine, and that this machine can reach it."""
    try:
        socket.create_connection((place.host, place.port), timeout=_ANSWER).close()
        _connect(place).set("pods/is_machine_0", "1")
        is_own = store.check(["pods/is_machine_0"])
    except (OSError, RuntimeError) as error:
        raise MeetingFailed(
            f"--dist-url: this is machine 0, and it does not reach itself at {place} "
            f"({first_line(error)}). Write an address of this machine ({socket.gethostname()}), "
            "or give this machine another --machine-rank."
        ) from None
    if not is_own:
        raise MeetingFailed(
            f"--dist-url: this is machine 0, but another launcher with --machine-rank 0 answers at "
            f"{place}. Give each machine a --machine-rank of its own."
        )


def _wait_for_others(place: Place, store: dist.TCPStore) -> None:
    deadline = time.monotonic() + 60 * place.minutes
    missing = list(range(1, place.machines))
    _log_wait(place, missing)
    while True:
        still = [rank for rank in missing if not store.check([_key(rank)])]
        if not still:
            return
        if still != missing:
            _log_wait(place, still)
        missing = still
        if time.monotonic() > deadline:
            raise MeetingFailed(
                f"{_list_machines(missing)} of {place.machines} did not reach {place} within "
                f"{place.patience}. Start the command there with its --machine-rank, the same "
                f"--dist-url and --num-machines; check that a firewall lets port {place.port} "
                "through. --wait-minutes N waits longer."
            )
        time.sleep(_PAUSE)


# -- the other machines ----------------------------------------------------------------------------


def _join(place: Place, rank: int) -> dist.TCPStore:
    """Connect to the store of machine 0, and wait for the other machines."""
    deadline = time.monotonic() + 60 * place.minutes
    _log_wait(place, [0])
    _reach(place, deadline)
    try:
        store = _connect(place)
        machines = int(store.get(_MACHINES))
    except (RuntimeError, ValueError) as error:
        raise MeetingFailed(
            f"--dist-url: a program that is not machine 0 of this run answers at {place} "
            f"({first_line(error)}). Check host and port, and start machine 0 first."
        ) from None
    if machines != place.machines:
        raise MeetingFailed(
            f"--num-machines is {place.machines} here and {machines} on machine 0 at {place}: "
            "write the same number on every machine."
        )
    try:
        store.set(_key(rank), "1")
        while not store.check([_ALL_HERE]):
            time.sleep(_PAUSE)
    except RuntimeError:
        raise MeetingFailed(
            f"Machine 0 at {place} ended while this machine, {rank} of {place.machines}, waited "
            "for the others; see the message on machine 0."
        ) from None
    return store


def _reach(place: Place, deadline: float) -> None:
    """Wait until a program accepts connections at `place`."""
    while True:
        try:
            socket.create_connection((place.host, place.port), timeout=_ANSWER).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise MeetingFailed(
                    f"Machine 0 of {place.machines} did not answer at {place} within "
                    f"{place.patience} ({error}). Start the command there with --machine-rank 0; "
                    "check the address in --dist-url, and that a firewall lets its port through. "
                    "--wait-minutes N waits longer."
                ) from None
        time.sleep(_PAUSE)


# -- both ------------------------------------------------------------------------------------------


def _serve(place: Place) -> dist.TCPStore:
    """Open the store without waiting for other machines."""
    return dist.TCPStore(
        "localhost",
        place.port,
        is_master=True,
        timeout=datetime.timedelta(seconds=_ANSWER),
        wait_for_workers=False,
        multi_tenant=True,
    )


def _connect(place: Place) -> dist.TCPStore:
    """Connect to the store of machine 0.

    A thread connects, because torch waits without limit for a program that accepts the connection
    and sends nothing.

    Raises:
        RuntimeError: the program that answers is not such a store.
    """
    made: list[dist.TCPStore] = []

    def connect() -> None:
        with contextlib.suppress(RuntimeError):
            wait = datetime.timedelta(seconds=_ANSWER)
            made.append(dist.TCPStore(place.host, place.port, is_master=False, timeout=wait))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_ANSWER)
    if not made:
        raise RuntimeError("its answer is not that of machine 0")
    return made[0]


def _key(rank: int) -> str:
    return f"pods/machine/{rank}"


def _list_machines(ranks: Sequence[int]) -> str:
    numbers = ", ".join(map(str, ranks))
    return f"Machine {numbers}" if len(ranks) == 1 else f"Machines {numbers}"


def _log_wait(place: Place, missing: Sequence[int]) -> None:
    listed = _list_machines(missing)
    logger.info(
        f"Waiting for {listed[0].lower()}{listed[1:]} of {place.machines} at {place}, for "
        f"{place.patience} at most (--wait-minutes)."
    )
