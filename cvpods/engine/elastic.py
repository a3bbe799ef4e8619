"""The set-up of torch's elastic launcher: its config, its signals, and shorter waits."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import signal
import threading
from types import FrameType
from typing import Any

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.launcher.api import LaunchConfig

from cvpods.engine.machines import Place
from cvpods.utils import torch_private
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
    """Set up torch's launcher: a store for every start of a group, a quick end, and no log lines.

    torch's own log lines would repeat the messages of the processes.
    """
    torch_private.separate_rendezvous_stores()
    torch_private.kill_failed_groups()
    torch_private.shorten_join(_FAREWELL)
    for name in logging.root.manager.loggerDict:
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)


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
