"""pods_test: evaluate the weights of an experiment."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cvpods.configs import BaseConfig
from cvpods.tools.errors import reporting_errors
from cvpods.tools.experiment import load_config
from cvpods.tools.flags import make_parser
from cvpods.utils.errors import CheckpointError


def main(argv: Sequence[str] | None = None) -> None:
    """Run pods_test; the exit status is 1 if an expected result is missed."""
    args = _parser().parse_intermixed_args(argv)
    with reporting_errors():
        config, _ = load_config(args)
        from cvpods.tools.workers import run_in_processes

        passed = run_in_processes(args, config, test)
    if not passed:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of pods_test."""
    parser = make_parser("Evaluate an experiment.")
    parser.add_argument(
        "--start-iter", type=int, metavar="N", help="evaluate checkpoints from iteration N on"
    )
    parser.add_argument(
        "--end-iter", type=int, metavar="N", help="evaluate checkpoints up to iteration N"
    )
    parser.add_argument(
        "--nms-recall",
        action="store_true",
        help="instead of AP, report how many of the objects found before NMS are found after it",
    )
    return parser


def test(args: argparse.Namespace) -> bool:
    """Evaluate in this process, one of those that were launched.

    Returns:
        False if an expected result is missed.
    """
    from loguru import logger

    from cvpods.checkpoint import list_checkpoints, newest_checkpoint
    from cvpods.checkpoint.origin import origin_of
    from cvpods.engine import RUNNERS, default_setup
    from cvpods.engine.testing import results_folder
    from cvpods.evaluation import verify_results
    from cvpods.tools.detectors import load_detector
    from cvpods.utils import comm

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


def choose_weights(args: argparse.Namespace, config: BaseConfig) -> list[str]:
    """Return the weights to evaluate.

    These are MODEL.WEIGHTS of the command line. With iteration bounds they are all checkpoints
    between the bounds (both included, counted by the iteration inside), otherwise the newest one.

    Raises:
        CheckpointError: there are none.
    """
    from cvpods.checkpoint import list_checkpoints
    from cvpods.tools.weights import chosen_weights, typed_weights

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
    """Return the iterations that a checkpoint has done; for weights alone, what its name says."""
    from cvpods.checkpoint.newest import iteration_of, read_iteration

    inside = read_iteration(path)
    return inside + 1 if inside is not None else iteration_of(path) or 0


if __name__ == "__main__":
    main()
