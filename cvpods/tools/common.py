"""What the command-line tools share: flags, errors, the way into the worker processes."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cvpods.checkpoint import newest_checkpoint
from cvpods.engine import launch
from cvpods.engine.launch import WorkersFailed, fails_first, lost_a_peer
from cvpods.engine.memory import (
    describe_death,
    first_line,
    is_dead_worker,
    is_out_of_memory,
    step_advice,
)
from cvpods.tools.experiment import load_experiment
from cvpods.utils import comm
from cvpods.utils.env import check_gpus, has_gpus
from cvpods.utils.errors import ConfigError, PodsError
from cvpods.utils.handles import describe_handles, is_out_of_handles, scarcity_hint
from cvpods.utils.logger import setup_logger
from cvpods.utils.stop import PeerFailed, Stopped

_USERS_MATTER = (PodsError, FloatingPointError)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Seconds until a process ends for want of another one.
_FAREWELL = 2
_EPILOG = """
Overrides are KEY VALUE pairs: SOLVER.IMS_PER_BATCH 8 DATASETS.TEST "('coco_2017_val',)"
Run inside an experiment's folder, or name it with --dir.
"""


def make_parser(description: str, launches: bool = True) -> argparse.ArgumentParser:
    """Flags that the commands share; with `launches`, of several processes and machines."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dir", help="the experiment's folder (default: the current one)")
    if launches:
        parser.add_argument(
            "--num-gpus",
            type=_gpus,
            metavar="N",
            help="GPUs of this machine, one process each (default: all, or the CPU where there is "
            "none); 0 is the CPU",
        )
        parser.add_argument(
            "--num-processes",
            type=int,
            metavar="N",
            help="processes on the CPU of this machine, instead of GPUs",
        )
        parser.add_argument("--num-machines", type=int, default=1, metavar="M")
        parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="0 .. M - 1")
        parser.add_argument(
            "--dist-url", metavar="tcp://HOST:PORT", help="address of machine 0; needed for M > 1"
        )
        parser.add_argument(
            "--wait-minutes",
            type=float,
            default=10.0,
            metavar="MIN",
            help="how long the machines wait for each other at the start (10)",
        )
    else:
        parser.add_argument("--num-gpus", type=_gpus, choices=(0, 1), help="0 is the CPU")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def _gpus(text: str) -> int:
    """Read the value of --num-gpus; a number that this machine does not have is a usage error."""
    count = int(text)
    try:
        check_gpus(count)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--num-gpus ")) from None
    return count


def load_config(args: argparse.Namespace) -> tuple[Any, Callable[[Any], Any]]:
    """The experiment's (config, build_model), with the command line's overrides."""
    on_cpu = args.num_gpus == 0 or getattr(args, "num_processes", None) is not None
    device = "cpu" if on_cpu else None
    found = open_experiment(args.dir or ".", args.opts, device)
    typed = dict(zip(args.opts[::2], args.opts[1::2], strict=False)).get("MODEL.DEVICE", "")
    if str(typed).startswith("cuda") and not has_gpus():
        raise ConfigError(
            f"MODEL.DEVICE {typed} needs a CUDA GPU, and this machine has none that torch can use. "
            "For the CPU, write MODEL.DEVICE cpu or leave it out."
        )
    return found


def open_experiment(
    folder: str | Path, opts: Sequence[Any] = (), device: str | None = None
) -> tuple[Any, Callable[[Any], Any]]:
    """The (config, build_model) of a folder, with KEY VALUE overrides and MODEL.DEVICE."""
    config, build_model = load_experiment(folder)
    config.merge_from_list(list(opts))
    if device is not None:
        config.MODEL.DEVICE = device
    config.OUTPUT_DIR = str(Path(folder).resolve() / os.path.expanduser(config.OUTPUT_DIR))
    return config, build_model


def typed_weights(config: Any, opts: Sequence[Any]) -> str | None:
    """Return MODEL.WEIGHTS of the overrides `opts`; None where it is left out or empty."""
    return (config.MODEL.WEIGHTS or None) if "MODEL.WEIGHTS" in opts[::2] else None


def chosen_weights(config: Any, opts: Sequence[Any]) -> str | Path:
    """Return typed_weights(), or else the newest checkpoint of OUTPUT_DIR.

    Raises:
        CheckpointError: OUTPUT_DIR has no checkpoint.
    """
    return typed_weights(config, opts) or newest_checkpoint(config.OUTPUT_DIR)


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Print an error that a user can act on as one message and exit with status 1.

    Other errors are defects of the program and keep their traceback.
    """
    setup_logger()
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        said = _explain(error)
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(1)


def _explain(error: Exception) -> str | None:
    """Return what to tell a user about an error; None for a defect of the program."""
    if is_out_of_handles(error):
        return describe_handles()
    if isinstance(error, _USERS_MATTER):
        return _message(error)
    if is_dead_worker(error):
        return f"{describe_death(error)}{scarcity_hint()}"
    if is_out_of_memory(error):
        return f"Out of memory: {first_line(error)}. {step_advice(1)}"
    if isinstance(error, OSError):
        return _about_file(error)
    return None


def _about_file(error: OSError) -> str | None:
    """Return what to tell about a file that cannot be used, or a full disk; None otherwise."""
    if error.errno in _NO_SPACE:
        return (
            f"No space is left to write {error.filename or 'a file'}: {error.strerror}. Make room "
            "and repeat the command; pods_train continues a run with --resume."
        )
    if error.filename is None:
        return None
    return f"{error.filename} cannot be used: {error.strerror}. Change it, or name another path."


def _message(error: Exception) -> str:
    """The error's own words, without the traceback that a loader's worker wraps around them."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rpartition(f"{type(error).__name__}: ")[2].strip()


def run_tool(
    args: argparse.Namespace,
    work: Callable[[argparse.Namespace], Any],
    max_restarts: int = 0,
    again: Callable[[], bool] = lambda: False,
) -> Any:
    """Check the experiment and its overrides here, then call work(args) in every process.

    Args:
        max_restarts: see launch().
        again: asked where the processes have failed: whether to launch them once more.
    """
    with reporting_errors():
        config, _ = load_config(args)
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
    if args.num_gpus:
        raise ConfigError(
            f"MODEL.DEVICE is 'cpu', and --num-gpus {args.num_gpus} asks for GPUs: leave one out."
        )
    args.num_gpus = 0


def _report_in_worker(work: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> Any:
    try:
        return work(args)
    except PeerFailed:
        time.sleep(_FAREWELL)  # so that the launcher names the process that has failed itself
        sys.exit(1)
    except Exception as error:
        if not fails_first():  # only for want of the process that did, and has said why
            sys.exit(1)
        if lost_a_peer(error):
            print(f"error: Rank {comm.get_rank()} has lost another process.", file=sys.stderr)
            sys.exit(1)
        with reporting_errors():
            if comm.get_world_size() == 1 or _explain(error) is not None:
                raise
            traceback.print_exc()
            sys.exit(1)
