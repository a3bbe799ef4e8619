"""Launch of a command's work in every process of a run."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from cvpods.configs import BaseConfig
from cvpods.engine import launch
from cvpods.engine.error_kinds import is_lost_peer
from cvpods.engine.launch import WorkersFailed
from cvpods.engine.worker import fails_first
from cvpods.tools.errors import explain, reporting_errors
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError
from cvpods.utils.stop import PeerFailed, Stopped

Result = TypeVar("Result")

# Seconds that a process waits before it ends because another one has failed.
_FAREWELL = 2


def run_in_processes(
    args: argparse.Namespace,
    config: BaseConfig,
    work: Callable[[argparse.Namespace], Result],
    max_restarts: int = 0,
    again: Callable[[], bool] = lambda: False,
) -> Result:
    """Call work(args) in every process that the flags ask for.

    Args:
        config: the experiment's, for MODEL.DEVICE; each process loads its own.
        work: a module-level function.
        max_restarts: see launch().
        again: called when the processes have failed; True launches them once more.

    Returns:
        What `work` returned in this machine's first process.
    """
    if config.MODEL.DEVICE == "cpu":
        _stay_on_cpu(args)
    while True:
        try:
            return launch(
                _report_in_worker,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(work, args),
                max_restarts=max_restarts,
                num_processes=args.num_processes,
                wait_minutes=args.wait_minutes,
            )
        except Stopped as stop:
            with suppress(OSError):  # the terminal may be gone
                print(stop, file=sys.stderr, flush=True)
            sys.exit(stop.status)
        except WorkersFailed:
            if not again():
                raise


def _stay_on_cpu(args: argparse.Namespace) -> None:
    """Set --num-gpus to 0.

    Raises:
        ConfigError: --num-gpus asks for GPUs.
    """
    if args.num_gpus:
        raise ConfigError(
            f"MODEL.DEVICE is 'cpu', and --num-gpus {args.num_gpus} asks for GPUs: leave one out."
        )
    args.num_gpus = 0


def _report_in_worker(
    work: Callable[[argparse.Namespace], Result], args: argparse.Namespace
) -> Result:
    """Call work(args); report an error once, in the process that failed first."""
    try:
        return work(args)
    except PeerFailed:
        time.sleep(_FAREWELL)  # so that the launcher names the process that has failed itself
        sys.exit(1)
    except Exception as error:
        if not fails_first():  # another process failed before, and has printed why
            time.sleep(_FAREWELL)  # for the launcher to name that process, see above
            sys.exit(1)
        if is_lost_peer(error):
            print(f"error: Rank {comm.get_rank()} has lost another process.", file=sys.stderr)
            sys.exit(1)
        with reporting_errors():
            if comm.get_world_size() == 1 or explain(error) is not None:
                raise
            traceback.print_exc()
            sys.exit(1)
