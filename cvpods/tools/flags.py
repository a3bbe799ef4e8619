"""Flags that the commands share."""

from __future__ import annotations

import argparse
import sys

from cvpods.tools.completion import PrintCompletion
from cvpods.utils.errors import ConfigError

_EPILOG = """
Overrides are KEY VALUE pairs: SOLVER.IMS_PER_BATCH 8 DATASETS.TEST "('coco_2017_val',)"
Run the command inside an experiment's folder, or name the folder with --dir.
"""


def make_parser(description: str, launches: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the shared flags.

    Args:
        launches: add the flags for several processes and machines.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dir", help="the experiment's folder (default: the current folder)")
    if launches:
        _add_launch_flags(parser)
    else:
        parser.add_argument("--num-gpus", type=_gpus, choices=(0, 1), help="0 is the CPU")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        metavar="SHELL",
        help="print a script that makes bash, zsh or fish complete this command, see README.md",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def _add_launch_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for several processes and machines."""
    parser.add_argument(
        "--num-gpus",
        type=_gpus,
        metavar="N",
        help="GPUs of this machine, one process each (default: all of them, or the CPU of a "
        "machine without GPUs); 0 is the CPU",
    )
    parser.add_argument(
        "--num-processes",
        type=int,
        metavar="N",
        help="processes on the CPU of this machine, instead of GPUs",
    )
    parser.add_argument(
        "--num-machines", type=int, default=1, metavar="M", help="machines of the run (1)"
    )
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="R", help="this machine, 0 .. M - 1"
    )
    parser.add_argument(
        "--dist-url",
        metavar="tcp://HOST:PORT",
        help="address of machine 0; required when M is above 1",
    )
    parser.add_argument(
        "--wait-minutes",
        type=float,
        default=10.0,
        metavar="MIN",
        help="how long the machines wait for each other at the start (10)",
    )


def _gpus(text: str) -> int:
    """Read the value of --num-gpus; check_num_gpus() compares it with the machine."""
    try:
        count = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number; got {text!r}.") from None
    if count < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more; got {count}.")
    return count


def check_num_gpus(args: argparse.Namespace) -> None:
    """End with a usage error (exit status 2) if the machine does not have --num-gpus GPUs.

    This imports torch, so a command calls it once everything cheaper is checked.
    """
    if not args.num_gpus:
        return
    from cvpods.utils.env import check_gpus

    try:
        check_gpus(args.num_gpus)
    except ConfigError as error:
        text = str(error).removeprefix("--num-gpus ")
        print(f"error: argument --num-gpus: {text}", file=sys.stderr)
        sys.exit(2)
