"""Start one process per device, on one or several machines, through torch's elastic launcher."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cvpods.engine.machines import Place, meet
from cvpods.utils import comm, torch_private
from cvpods.utils.env import check_gpus, has_gpus
from cvpods.utils.errors import ConfigError, PodsError
from cvpods.utils.stop import STOP_SIGNALS, Stopped, caught_signals

# Seconds from SIGTERM to SIGKILL for the processes of a group in which one has failed.
_FAREWELL = 2
# Seconds that processes have to finish their iteration and save, after a signal to the launcher.
_GRACE = 300


class WorkersFailed(PodsError):  # noqa: N818 - reads better than WorkersFailedError
    """A process ended with an error, which it has printed itself."""


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int | None = None,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    max_restarts: int = 0,
    num_processes: int | None = None,
    wait_minutes: float = 10.0,
) -> Any:
    """Call main_func(*args) in every process, with a process group, also when there is only one.

    Args:
        main_func: a module-level function.
        num_gpus_per_machine: processes on this machine, one per GPU; None takes all GPUs, or one
            process on the CPU of a machine without. 0 is one process on the CPU. As in cvpods, a
            machine without GPUs runs that many processes on the CPU; the commands refuse it.
        dist_url: "tcp://host:port" of machine 0; None or "auto" picks a port of this machine.
        max_restarts: how often all processes are started again after one has failed; see
            restart_count().
        num_processes: processes on the CPU of this machine, instead of GPUs.
        wait_minutes: how long the machines wait for each other at the start.

    Returns:
        What main_func returned on this machine's first process.

    Raises:
        ConfigError: more processes than GPUs, or several machines without dist_url.
        MeetingFailed: the machines did not find each other, or dist_url's port is in use.
        WorkersFailed: a process failed, and restarts are used up.
        Stopped: a signal came to this process or to those that it started; they have ended.
    """
    count = _count_processes(num_gpus_per_machine, num_processes)
    _check_flags(num_machines, machine_rank, dist_url, max_restarts, wait_minutes)
    on_cpu = num_processes is not None or num_gpus_per_machine == 0 or not has_gpus()
    if count * num_machines == 1 and max_restarts == 0:
        return _run_alone(main_func, args, on_cpu)
    place = Place(*_endpoint(dist_url, num_machines), num_machines, wait_minutes)
    store = meet(place, machine_rank)
    config = _launch_config(count, place, machine_rank, max_restarts)
    _prepare_torch()
    _pass_stop_signals_on()
    try:
        return _run_group(config, main_func, args, on_cpu)
    finally:
        del store  # served until here: torch's launchers use its server


def _run_group(config: LaunchConfig, main_func: Callable[..., Any], args: tuple, cpu: bool) -> Any:
    try:
        results = elastic_launch(config, _run_worker)(main_func, args, cpu)
        return results[min(results)]
    except SignalException as error:
        raise Stopped(int(error.sigval)) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode - 128 in STOP_SIGNALS:
            raise Stopped(failure.exitcode - 128) from None
        raise WorkersFailed(
            f"Process {rank} failed first ({_how(failure.exitcode)}); see its message above."
        ) from None
    except (RendezvousError, dist.DistError) as error:
        raise WorkersFailed(_lost(config, error)) from None


def _lost(config: LaunchConfig, error: Exception) -> str:
    return (
        f"This machine lost the others of the run at {config.rdzv_endpoint}: machine 0 ended, the "
        f"network failed, or a restarted group was not complete in time ({type(error).__name__}). "
        "See the messages of the other machines; --resume continues from the last checkpoint."
    )


def _count_processes(num_gpus: int | None, num_processes: int | None) -> int:
    if num_processes is None:
        if num_gpus is None:
            num_gpus = torch.cuda.device_count()
        if has_gpus():
            check_gpus(num_gpus)
        return max(num_gpus, 1)
    if num_gpus:
        raise ConfigError(
            f"--num-processes {num_processes} is for the CPU: leave --num-gpus {num_gpus} out."
        )
    if num_processes < 1:
        raise ConfigError(f"--num-processes must be at least 1; got {num_processes}.")
    return num_processes


def _check_flags(
    num_machines: int,
    machine_rank: int,
    dist_url: str | None,
    max_restarts: int,
    wait_minutes: float,
) -> None:
    if num_machines < 1:
        raise ConfigError(f"--num-machines must be at least 1; got {num_machines}.")
    if num_machines > 1 and dist_url in (None, "auto"):
        raise ConfigError(
            "--num-machines > 1 needs --dist-url tcp://<address of machine 0>:<port>."
        )
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(f"--machine-rank {machine_rank} must be in [0, {num_machines}).")
    if max_restarts < 0:
        raise ConfigError(f"--max-restarts {max_restarts} must be at least 0.")
    if not 0 < wait_minutes < 1e6:
        raise ConfigError(f"--wait-minutes must be a number above 0; got {wait_minutes}.")


def restart_count() -> int:
    """How often a launcher has started this process' group anew; every rank must call it.

    Where the failure was on one machine, the others' launchers follow without counting.
    """
    return max(comm.all_gather(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))))


def fails_first() -> bool:
    """For a process that fails: whether no other of its group has before. One of them gets True."""
    if comm.get_world_size() == 1:
        return True
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank = str(comm.get_rank())
    try:
        store = dist.TCPStore(host, port, timeout=datetime.timedelta(seconds=5))
        return store.compare_set("cvpods/failed", "", rank).decode() == rank
    except (RuntimeError, ValueError):  # rank 0, which holds the store, is gone
        return True


def lost_a_peer(error: BaseException) -> bool:
    """Whether a collective call failed because another process ended."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def _how(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _prepare_torch() -> None:
    """Set up torch's launcher: a store for every start of a group, a quick end, and no log lines.

    torch's own log lines would repeat the messages of the processes.
    """
    torch_private.separate_rendezvous_stores()
    torch_private.kill_failed_groups()
    torch_private.shorten_join(_FAREWELL)
    for name in logging.root.manager.loggerDict:
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _pass_stop_signals_on() -> None:
    """Make torch's launcher pass SIGHUP and SIGUSR1 on and wait, as it does with SIGTERM.

    A closed terminal sends SIGHUP more than once: only the first one counts. What is ignored at
    the start stays ignored, as nohup wants it; newer versions of torch would handle SIGHUP too.
    """

    def end(number: int, frame: Any) -> None:
        signal.signal(number, lambda number, frame: None)
        name = signal.Signals(number)
        raise SignalException(f"Process {os.getpid()} got {name.name}", sigval=name)

    if threading.current_thread() is threading.main_thread():
        for number in caught_signals():
            if number not in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, end)


def _launch_config(count: int, place: Place, machine_rank: int, max_restarts: int) -> LaunchConfig:
    # Without SIGHUP, see _pass_stop_signals_on().
    optional = {"shutdown_timeout": _GRACE, "signals_to_handle": "SIGTERM,SIGINT,SIGQUIT"}
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    return LaunchConfig(
        min_nodes=place.machines,
        max_nodes=place.machines,
        nproc_per_node=count,
        run_id="pods",
        max_restarts=max_restarts,
        monitor_interval=0.5,
        start_method="spawn",
        rdzv_backend="c10d",
        rdzv_endpoint=str(place),
        rdzv_configs={
            "is_host": machine_rank == 0,
            "join_timeout": max(math.ceil(60 * place.minutes), 1),
        },
        # Machines are ranked by this name, and the others find the first one by it.
        local_addr=place.host if machine_rank == 0 else f"~{machine_rank:05d}",
        **{name: value for name, value in optional.items() if name in known},  # not in torch 2.6
    )


def _endpoint(dist_url: str | None, num_machines: int) -> tuple[str, int]:
    """Return host and port of machine 0; a run on one machine does not leave it."""
    if dist_url in (None, "auto"):
        return "localhost", _free_port()
    host, _, port = str(dist_url).removeprefix("tcp://").rpartition(":")
    if not host or "/" in host or not re.fullmatch("[0-9]{1,5}", port):
        raise ConfigError(f"--dist-url must look like tcp://host:port; got {dist_url!r}.")
    if not 0 < int(port) < 65536:
        raise ConfigError(f"--dist-url: the port must be in [1, 65535]; got {port}.")
    host = host.removeprefix("[").removesuffix("]")  # IPv6
    return (host if num_machines > 1 else "localhost"), int(port)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _run_alone(main_func: Callable[..., Any], args: tuple, on_cpu: bool) -> Any:
    """A process group of one, so that collective calls in user code work."""
    started = not dist.is_initialized()
    if started:
        backend = "gloo" if on_cpu else "nccl"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        return main_func(*args)
    finally:
        if started:
            dist.destroy_process_group()


def _status(end: SystemExit | KeyboardInterrupt) -> int:
    """Return the exit status of a process of a group: never 0, for which its launcher would wait.

    A text is printed, as at the end of any process.
    """
    if isinstance(end, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(end.code, int) and end.code % 256:
        return end.code % 256
    text = end.code if isinstance(end.code, str) else "sys.exit() was called before its end"
    print(f"error: Rank {comm.get_rank()}: {text}", file=sys.stderr, flush=True)
    return 1


def _run_worker(main_func: Callable[..., Any], args: tuple, on_cpu: bool) -> Any:
    """What each process of a launched group runs; the launcher has set RANK, WORLD_SIZE, ..."""
    if on_cpu:
        torch.set_num_threads(max((os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]), 1))
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo" if on_cpu else "nccl")
    try:
        result = main_func(*args)
    except Stopped as stop:
        sys.exit(stop.status)
    except (SystemExit, KeyboardInterrupt) as end:
        sys.exit(_status(end))
    # Not after an error: waiting for the others here would hide which process failed first.
    dist.destroy_process_group()
    return result
