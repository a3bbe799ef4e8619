"""Start one process per device, on one or several machines, through torch's elastic launcher."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.multiprocessing.spawn import ProcessContext

from cvpods.utils import comm
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
) -> Any:
    """Call main_func(*args) in every process, with a process group, also when there is only one.

    Args:
        main_func: a module-level function.
        num_gpus_per_machine: processes on this machine; None is one per GPU, or one on the CPU.
            Without CUDA so many CPU processes train together; 0 is one process.
        dist_url: "tcp://host:port" of machine 0; None or "auto" picks a port of this machine.
        max_restarts: where a process fails, start all of them anew, so many times; see
            restart_count().

    Returns:
        What main_func returned on this machine's first process.

    Raises:
        ConfigError: more processes than GPUs, or several machines without dist_url.
        WorkersFailed: a process failed, and restarts are used up.
        Stopped: a signal came to this process or to those that it started; they have ended.
    """
    gpus = torch.cuda.device_count()
    count = num_gpus_per_machine if num_gpus_per_machine is not None else gpus
    if gpus and count > gpus:
        raise ConfigError(f"--num-gpus {count}: this machine has {gpus}.")
    count = max(count, 1)
    if num_machines > 1 and dist_url in (None, "auto"):
        raise ConfigError(
            "--num-machines > 1 needs --dist-url tcp://<address of machine 0>:<port>."
        )
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(f"--machine-rank {machine_rank} must be in [0, {num_machines}).")
    if max_restarts < 0:
        raise ConfigError(f"--max-restarts {max_restarts} must be at least 0.")
    if count * num_machines == 1 and max_restarts == 0:
        return _run_alone(main_func, args)
    config = _launch_config(count, num_machines, machine_rank, dist_url, max_restarts)
    _prepare_torch()
    _pass_stop_signals_on()
    try:
        results = elastic_launch(config, _run_worker)(main_func, args)
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
    """Set torch's launcher up: a store of its own for every start of a group (the shared one keeps
    the addresses of the last group), failures at once, and no log beside our processes' messages.
    """
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    LocalElasticAgent._stop_workers = _kill_workers  # type: ignore[method-assign]
    ProcessContext.join = _join_soon  # type: ignore[method-assign]
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


_join = ProcessContext.join


def _join_soon(context: ProcessContext, timeout: Any = None, grace_period: Any = None) -> bool:
    """torch's, with seconds in the place of half a minute for those whose fellow has failed."""
    if "grace_period" not in inspect.signature(_join).parameters:  # torch 2.6
        return _join(context, timeout)
    return _join(context, timeout, _FAREWELL if grace_period is None else grace_period)


def _kill_workers(agent: LocalElasticAgent, *args: Any, **kwargs: Any) -> None:
    """In the place of torch's, which asks by SIGTERM and waits 30 s: where one process has failed,
    the others wait for it inside a collective call, and have nothing left to save.
    """
    agent._shutdown(death_sig=signal.SIGKILL)


def _launch_config(
    count: int, num_machines: int, machine_rank: int, dist_url: str | None, max_restarts: int
) -> LaunchConfig:
    if num_machines == 1:
        port = _free_port() if dist_url in (None, "auto") else _endpoint(dist_url)[1]
        host = "localhost"
    else:
        host, port = _endpoint(dist_url)
    # Without SIGHUP, see _pass_stop_signals_on().
    optional = {"shutdown_timeout": _GRACE, "signals_to_handle": "SIGTERM,SIGINT,SIGQUIT"}
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    return LaunchConfig(
        min_nodes=num_machines,
        max_nodes=num_machines,
        nproc_per_node=count,
        run_id="pods",
        max_restarts=max_restarts,
        monitor_interval=0.5,
        start_method="spawn",
        rdzv_backend="c10d",
        rdzv_endpoint=f"{host}:{port}",
        rdzv_configs={"is_host": machine_rank == 0},
        # Machines are ranked by this name, and the others find the first one by it.
        local_addr=host if machine_rank == 0 else f"~{machine_rank:05d}",
        **{name: value for name, value in optional.items() if name in known},  # not in torch 2.6
    )


def _endpoint(dist_url: str | None) -> tuple[str, int]:
    host, _, port = str(dist_url).removeprefix("tcp://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--dist-url must look like tcp://host:port, got {dist_url!r}.")
    return host, int(port)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _run_alone(main_func: Callable[..., Any], args: tuple) -> Any:
    """A process group of one, so that collective calls in user code work."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    started = not dist.is_initialized()
    if started:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        return main_func(*args)
    finally:
        if started:
            dist.destroy_process_group()


def _run_worker(main_func: Callable[..., Any], args: tuple) -> Any:
    """What each process of a launched group runs; the launcher has set RANK, WORLD_SIZE, ..."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(max((os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]), 1))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        result = main_func(*args)
    except Stopped as stop:
        sys.exit(stop.status)
    # Not after an error: waiting for the others here would hide which process failed first.
    dist.destroy_process_group()
    return result
