"""pods_test: evaluate the weights of an experiment."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.checkpoint import iteration_of, list_checkpoints, newest_checkpoint
from cvpods.checkpoint.newest import read_iteration
from cvpods.checkpoint.origin import origin_of
from cvpods.engine import RUNNERS, default_setup
from cvpods.engine.testing import results_folder
from cvpods.evaluation import verify_results
from cvpods.tools.common import chosen_weights, load_config, make_parser, run_tool, typed_weights
from cvpods.tools.detectors import load_detector
from cvpods.utils import comm
from cvpods.utils.errors import CheckpointError


def choose_weights(args: argparse.Namespace, config: Any) -> list[str]:
    """What to evaluate: MODEL.WEIGHTS of the command line; with iteration bounds, all checkpoints
    between them (both included, counted by what is inside); else the newest.

    Raises:
        CheckpointError: there is none.
    """
    bounded = args.start_iter is not None or args.end_iter is not None
    if typed_weights(config, args.opts) or not bounded:
        return [str(chosen_weights(config, args.opts))]
    found = list_checkpoints(config.OUTPUT_DIR)
    low = args.start_iter or 0
    high = float("inf") if args.end_iter is None else args.end_iter
    chosen = [path for path in found if low <= _iterations(path) <= high]
    if not chosen:
        raise CheckpointError(
            f"No checkpoint to test in {config.OUTPUT_DIR} between iterations {low} and {high} "
            f"(it has {[p.name for p in found]}). Train first, or name a file: pods_test "
            "MODEL.WEIGHTS x.pth"
        )
    return [str(path) for path in chosen]


def _iterations(path: Path) -> float:
    """Return the iterations done of a checkpoint; what its name says for weights alone."""
    inside = read_iteration(path)
    return inside + 1 if inside is not None else iteration_of(path) or 0


def test(args: argparse.Namespace) -> bool:
    """Evaluate in this process, one of those that were launched; False where results are missed."""
    config, build_model = load_config(args)
    weights = choose_weights(args, config)
    own = list_checkpoints(config.OUTPUT_DIR)
    newest = newest_checkpoint(config.OUTPUT_DIR) if own else None
    config = default_setup(config, args)
    runner = RUNNERS.get(config.TRAINER.NAME)
    passed = True
    for path in weights:
        logger.info(f"Evaluating {path}")
        model, _ = load_detector(config, build_model, path)
        folder = results_folder(config, origin_of(model), newest)
        if args.nms_recall:
            runner.test_nms_recall(config, model, folder)
            continue
        results = runner.test(config, model, folder)
        if comm.is_main_process():
            passed &= verify_results(config.TEST.EXPECTED_RESULTS, results)
    return passed


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_test."""
    parser = make_parser("Evaluate an experiment.")
    parser.add_argument(
        "--start-iter", type=int, help="evaluate checkpoints from this iteration on"
    )
    parser.add_argument("--end-iter", type=int, help="evaluate checkpoints up to this iteration")
    parser.add_argument(
        "--nms-recall",
        action="store_true",
        help="of the objects found before NMS, how many are found after it (instead of AP)",
    )
    if not run_tool(parser.parse_intermixed_args(argv), test):
        sys.exit(1)


if __name__ == "__main__":
    main()
