"""pods_train: train the experiment of a folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from cvpods.configs import BaseConfig
from cvpods.configs.validation import check_config, check_training
from cvpods.tools.errors import reporting_errors
from cvpods.tools.experiment import load_config
from cvpods.tools.flags import make_parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run pods_train."""
    args = _parser().parse_intermixed_args(argv)
    with reporting_errors():
        config, _ = load_config(args, check=check_config)
        from cvpods.engine.defaults import check_setup
        from cvpods.tools.output_folder import alone_in
        from cvpods.tools.workers import run_in_processes

        check_setup(config)
        check_training(config)
        with alone_in(config, args):
            again = _smaller_passes(config, args)
            run_in_processes(args, config, train, args.max_restarts, again)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of pods_train."""
    parser = make_parser("Train an experiment.")
    parser.add_argument(
        "--resume", action="store_true", help="continue from OUTPUT_DIR/last_checkpoint"
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="when a process dies, restart all of them from the last checkpoint, up to N times",
    )
    parser.add_argument(
        "--auto-batch",
        action="store_true",
        help="when memory is spent, halve SOLVER.IMS_PER_DEVICE and accumulate gradients, so that "
        "the batch stays the same",
    )
    return parser


def train(args: argparse.Namespace) -> None:
    """Train in this process, one of those that were launched."""
    from loguru import logger

    from cvpods.engine import RUNNERS, default_setup
    from cvpods.engine.defaults import dump_config
    from cvpods.engine.worker import restart_count
    from cvpods.tools.data_checks import check_before_training
    from cvpods.utils import comm

    config, build_model = load_config(args)
    config.SOLVER.AUTO_BATCH |= args.auto_batch
    config = default_setup(config, args)
    if comm.is_main_process():
        check_before_training(config)
        config.link_log(folder=args.dir or ".")
    runner = RUNNERS.get(config.TRAINER.NAME)(config, build_model)
    if restarts := restart_count():
        logger.warning(f"Restarted by the launcher ({restarts}): continuing from what is saved.")
    runner.resume_or_load(resume=args.resume or restarts > 0)
    dump_config(config)
    runner.train()


def _smaller_passes(config: BaseConfig, args: argparse.Namespace) -> Callable[[], bool]:
    """Return a function that tells whether to launch processes again, which have failed.

    With --auto-batch they are, if one of them ran out of memory and passes can be smaller.
    """
    from cvpods.engine.auto_batch import read_images_at_once

    tried = {None, read_images_at_once(config.OUTPUT_DIR)}

    def again() -> bool:
        images = read_images_at_once(config.OUTPUT_DIR)
        if images in tried or not (args.auto_batch or config.SOLVER.AUTO_BATCH):
            return False
        tried.add(images)
        args.resume = True
        return True

    return again


if __name__ == "__main__":
    main()
