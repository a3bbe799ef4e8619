"""pods_train: train the experiment of a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cvpods.engine import RUNNERS, default_setup
from cvpods.engine.defaults import dump_config
from cvpods.tools.common import load_config, make_parser, run_tool
from cvpods.utils import comm


def train(args: argparse.Namespace) -> None:
    """Train in this process, one of those that were launched."""
    config, build_model = load_config(args)
    config = default_setup(config, args)
    if comm.is_main_process():
        config.link_log(folder=args.dir or ".")
    runner = RUNNERS.get(config.TRAINER.NAME)(config, build_model)
    runner.resume_or_load(resume=args.resume)
    dump_config(config)
    runner.train()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_train."""
    parser = make_parser("Train an experiment.")
    parser.add_argument(
        "--resume", action="store_true", help="go on from OUTPUT_DIR/last_checkpoint"
    )
    run_tool(parser.parse_intermixed_args(argv), train)


if __name__ == "__main__":
    main()
