"""The set-up of torch's elastic launcher: its config, its signals, and shorter waits."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
import os
import signal
import threading
from types import FrameType
from typing import Any

from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.launcher.api import LaunchConfig
from torch.multiprocessing.spawn import ProcessContext

from cvpods.engine.machines import Place
from cvpods.utils.stop import caught_signals

# Seconds from SIGTERM to SIGKILL for the processes of a group in which one has failed.
_FAREWELL = 2
# Seconds that processes have to finish their iteration and save, after a signal to the launcher.
_GRACE = 300


def launch_config(count: int, place: Place, machine_rank: int, max_restarts: int) -> LaunchConfig:
    """Return the config of a launcher that starts `count` processes on this machine."""
    # SIGHUP is not among the signals, see pass_stop_signals_on().
    optional = {"shutdown_timeout": _GRACE, "signals_to_handle": "SIGTERM,SIGINT,SIGQUIT"}
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    options: dict[str, Any] = {name: value for name, value in optional.items() if name in known}
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
        **options,  # not in torch 2.6
    )


def prepare_torch() -> None:
    """Set torch's launcher up for our processes.

    Every start of a group gets a store of its own, because the shared one keeps the addresses of
    the last group. Failures are reported at once. torch writes no log beside our messages.
    """
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    LocalElasticAgent._stop_workers = _kill_workers  # type: ignore[method-assign]  # replaced here
    ProcessContext.join = _join_soon  # type: ignore[method-assign, assignment]  # replaced here
    for name in logging.root.manager.loggerDict:
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)


_join = ProcessContext.join


def _join_soon(
    context: ProcessContext, timeout: float | None = None, grace_period: float | None = None
) -> bool:
    """Call torch's join(), but give processes whose peer has failed 2 seconds instead of 30."""
    if "grace_period" not in inspect.signature(_join).parameters:  # torch 2.6
        return _join(context, timeout)
    return _join(context, timeout, _FAREWELL if grace_period is None else grace_period)


def _kill_workers(agent: LocalElasticAgent, *args: Any, **kwargs: Any) -> None:
    """Kill the processes at once, where torch sends SIGTERM and waits for 30 s.

    If one process has failed, the others wait for it inside a collective call, and have nothing
    left to save.
    """
    # Windows has no SIGKILL.
    agent._shutdown(death_sig=getattr(signal, "SIGKILL", signal.SIGTERM))


def pass_stop_signals_on() -> None:
    """Make torch's launcher pass SIGHUP and SIGUSR1 on and wait, as it does with SIGTERM.

    A closed terminal sends SIGHUP more than once: only the first one counts. Signals that are
    ignored at the start stay ignored, as nohup wants it. For this reason, newer versions of torch
    must not handle SIGHUP themselves, see launch_config().
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, lambda number, frame: None)
        name = signal.Signals(number)
        raise SignalException(f"Process {os.getpid()} got {name.name}", sigval=name)

    if threading.current_thread() is threading.main_thread():
        for number in caught_signals():
            if number not in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, end)
