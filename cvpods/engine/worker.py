"""The processes of a run: their process group, their exit status, and their place in the group."""

from __future__ import annotations

import datetime
import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from cvpods.utils import comm
from cvpods.utils.stop import Stopped

_Result = TypeVar("_Result")


def run_alone(main_func: Callable[..., _Result], args: tuple, on_cpu: bool) -> _Result:
    """Call main_func(*args) in a process group of one, so that collective calls in it work."""
    started = not dist.is_initialized()
    if started:
        backend = "gloo" if on_cpu else "nccl"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        return main_func(*args)
    finally:
        if started:
            dist.destroy_process_group()


def run_worker(main_func: Callable[..., _Result], args: tuple, on_cpu: bool) -> _Result:
    """Call main_func(*args) in one process of a launched group.

    The launcher has set RANK, WORLD_SIZE and the other variables that torch reads.
    """
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
        sys.exit(exit_status(end))
    # Not after an error: waiting for the others here would hide which process failed first.
    dist.destroy_process_group()
    return result


def exit_status(end: SystemExit | KeyboardInterrupt) -> int:
    """Return the exit status of a process of a group: never 0, for which its launcher would wait.

    The text of sys.exit(text) is printed, as at the end of any process.
    """
    if isinstance(end, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(end.code, int) and end.code % 256:
        return end.code % 256
    text = end.code if isinstance(end.code, str) else "sys.exit() was called before its end"
    print(f"error: Rank {comm.get_rank()}: {text}", file=sys.stderr, flush=True)
    return 1


def restart_count() -> int:
    """Return how many times the launcher has restarted this process group; every rank must call it.

    A launcher counts the failures on its own machine alone, so the largest count is the right one.
    """
    return max(comm.all_gather(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))))


def fails_first() -> bool:
    """Return whether this process, which fails, is the first of its group to do so.

    Exactly one process of a group gets True while rank 0, which holds the store, is alive.
    """
    if comm.get_world_size() == 1:
        return True
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank = str(comm.get_rank())
    try:
        store = dist.TCPStore(host, port, timeout=datetime.timedelta(seconds=5))
        return store.compare_set("cvpods/failed", "", rank).decode() == rank
    except (RuntimeError, ValueError):  # rank 0, which holds the store, is gone
        return True
