"""pods_train: train the experiment of a folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from loguru import logger

from cvpods.checkpoint import list_checkpoints
from cvpods.checkpoint.addresses import find_file, find_in_weights_folder
from cvpods.configs.check import check_training
from cvpods.engine import RUNNERS, default_setup
from cvpods.engine.defaults import check_setup, dump_config
from cvpods.engine.launch import restart_count
from cvpods.engine.memory import found_images
from cvpods.engine.run_files import set_aside
from cvpods.tools.check import check_before_training
from cvpods.tools.common import load_config, make_parser, reporting_errors, run_tool
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError


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
        config, _ = load_config(args)
        check_setup(config)
        check_training(config)
        with _alone_in(config, args):
            run_tool(args, train, args.max_restarts, _smaller_passes(config, args))


@contextmanager
def _alone_in(config: Any, args: argparse.Namespace) -> Iterator[None]:
    """Hold OUTPUT_DIR against other runs; a new run finds it without an earlier one's files.

    Raises:
        ConfigError: another run is at work there, or MODEL.WEIGHTS is of the files that would move.
    """
    output = Path(config.OUTPUT_DIR)
    if args.machine_rank > 0:
        yield
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Loaders' workers of a killed run hold the lock for some seconds more.
        lock = FileLock(output / ".pods_train.lock", timeout=20)
        held = lock.acquire()
    except Timeout:
        raise ConfigError(
            f"Another pods_train is at work in OUTPUT_DIR {output}: name another folder."
        ) from None
    except (OSError, NotImplementedError):  # default_setup() says what is wrong with the folder
        yield
        return
    with held:
        if not args.resume:
            weights = str(config.MODEL.WEIGHTS or "")
            own = [path.resolve() for path in list_checkpoints(output)]
            named = _local_file(weights) if own else None
            if named is not None and named.resolve() in own:
                raise ConfigError(
                    f"MODEL.WEIGHTS {weights} is of an earlier run in OUTPUT_DIR {output}, whose "
                    "files a new run moves aside: name another OUTPUT_DIR, or --resume."
                )
            set_aside(output)
        yield


def _local_file(weights: str) -> Path | None:
    """Return the file that MODEL.WEIGHTS names without a download."""
    plain = weights.partition("#")[0]
    if "://" not in plain:
        return find_file(weights) if weights else None
    name = plain.removeprefix("cvpods://")
    return find_in_weights_folder([name, f"{name}/model_final.pth"])


def _smaller_passes(config: Any, args: argparse.Namespace) -> Callable[[], bool]:
    """For --auto-batch with several processes: whether these, which have ended, shall start anew
    because one of them ran out of memory and passes can be smaller.
    """
    tried = {None, found_images(config.OUTPUT_DIR)}

    def again() -> bool:
        images = found_images(config.OUTPUT_DIR)
        if images in tried or not (args.auto_batch or config.SOLVER.AUTO_BATCH):
            return False
        tried.add(images)
        args.resume = True
        return True

    return again


if __name__ == "__main__":
    main()
