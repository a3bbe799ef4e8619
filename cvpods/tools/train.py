"""pods_train: train the experiment of a folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from loguru import logger

from cvpods.configs.check import check_training
from cvpods.engine import RUNNERS, default_setup
from cvpods.engine.defaults import dump_config
from cvpods.engine.launch import restart_count
from cvpods.engine.memory import found_images
from cvpods.tools.check import check_before_training
from cvpods.tools.common import load_config, make_parser, reporting_errors, run_tool
from cvpods.utils import comm


def train(args: argparse.Namespace) -> None:
    """Train in this process, one of those that were launched."""
    config, build_model = load_config(args)
    config.SOLVER.AUTO_BATCH |= args.auto_batch
    config = default_setup(config, args)
    if comm.is_main_process():
        check_before_training(config)
        config.link_log(folder=args.dir or ".")
    runner = RUNNERS.get(config.TRAINER.NAME)(config, build_model)
    if restarts := restart_count():
        logger.warning(f"Started anew by the launcher ({restarts}): going on from what is saved.")
    runner.resume_or_load(resume=args.resume or restarts > 0)
    dump_config(config)
    runner.train()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_train."""
    parser = make_parser("Train an experiment.")
    parser.add_argument(
        "--resume", action="store_true", help="go on from OUTPUT_DIR/last_checkpoint"
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="where a process dies, start all of them anew from the last checkpoint, N times",
    )
    parser.add_argument(
        "--auto-batch",
        action="store_true",
        help="out of memory: halve SOLVER.IMS_PER_DEVICE and accumulate, so that the batch stays",
    )
    args = parser.parse_intermixed_args(argv)
    with reporting_errors():
        check_training(load_config(args)[0])
    run_tool(args, train, args.max_restarts, _smaller_passes(args))


def _smaller_passes(args: argparse.Namespace) -> Callable[[], bool]:
    """For --auto-batch with several processes: whether these, which have ended, shall start anew
    because one of them ran out of memory and passes can be smaller.
    """
    tried: set[int | None] = {None}

    def again() -> bool:
        config, _ = load_config(args)
        images = found_images(config.OUTPUT_DIR) if args.auto_batch else None
        args.resume = True
        return images not in tried and not tried.add(images)

    return again


if __name__ == "__main__":
    main()
