"""What the command-line tools share: flags, errors, the way into the worker processes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.engine import launch
from cvpods.tools.experiment import load_experiment
from cvpods.utils.errors import PodsError
from cvpods.utils.logger import setup_logger

_EPILOG = """
Overrides are KEY VALUE pairs: SOLVER.IMS_PER_BATCH 8 DATASETS.TEST "('coco_2017_val',)"
Run inside an experiment's folder, or name it with --dir.
"""


def make_parser(description: str) -> argparse.ArgumentParser:
    """Flags that training and testing share."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dir", help="the experiment's folder (default: the current one)")
    parser.add_argument(
        "--num-gpus",
        type=int,
        metavar="N",
        help="processes on this machine (default: one per GPU, or one on the CPU); 0 is the CPU",
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="M")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="0 .. M - 1")
    parser.add_argument(
        "--dist-url", metavar="tcp://HOST:PORT", help="address of machine 0; needed for M > 1"
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides"
    )
    return parser


def load_config(args: argparse.Namespace) -> tuple[Any, Callable[[Any], Any]]:
    """The experiment's (config, build_model), with the command line's overrides."""
    config, build_model = load_experiment(args.dir or ".")
    config.merge_from_list(args.opts)
    if args.num_gpus == 0:
        config.MODEL.DEVICE = "cpu"
    if not Path(config.OUTPUT_DIR).is_absolute():
        config.OUTPUT_DIR = str(Path(args.dir or ".").resolve() / config.OUTPUT_DIR)
    return config, build_model


def run_tool(args: argparse.Namespace, work: Callable[[argparse.Namespace], Any]) -> Any:
    """Check the experiment and its overrides here, then call work(args) in every process.

    A PodsError is printed as one message; the exit status is then 1.
    """
    setup_logger()
    try:
        load_config(args)
        return launch(
            work,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except PodsError as error:
        _fail(error)
    except (FloatingPointError, KeyboardInterrupt) as error:
        _fail(error)


def guarded(work: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> Any:
    """In a worker process: print a PodsError as one message, and log it."""
    try:
        return work(args)
    except (PodsError, FloatingPointError) as error:
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            raise
        _fail(error)


def _fail(error: BaseException) -> None:
    message = str(error) or type(error).__name__
    logger.remove()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)
