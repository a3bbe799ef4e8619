"""OUTPUT_DIR of a training: locked for one run, and cleared of the files of an earlier one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cvpods.checkpoint import list_checkpoints
from cvpods.checkpoint.addresses import find_file, find_in_weights_folder
from cvpods.configs import BaseConfig
from cvpods.engine.run_files import set_aside
from cvpods.utils.errors import ConfigError


@contextmanager
def alone_in(config: BaseConfig, args: argparse.Namespace) -> Iterator[None]:
    """Hold OUTPUT_DIR against other runs; move an earlier run's files aside unless --resume.

    Raises:
        ConfigError: another run uses the folder, or MODEL.WEIGHTS is one of the files that would
            move.
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
    except (OSError, NotImplementedError):  # default_setup() reports what is wrong with the folder
        yield
        return
    with held:
        if not args.resume:
            _refuse_own_weights(config, output)
            set_aside(output)
        yield


def _refuse_own_weights(config: BaseConfig, output: Path) -> None:
    """Raise ConfigError if MODEL.WEIGHTS is a checkpoint in `output`."""
    weights = str(config.MODEL.WEIGHTS or "")
    own = [path.resolve() for path in list_checkpoints(output)]
    named = _local_file(weights) if own else None
    if named is not None and named.resolve() in own:
        raise ConfigError(
            f"MODEL.WEIGHTS {weights} is of an earlier run in OUTPUT_DIR {output}, whose files a "
            "new run moves aside: name another OUTPUT_DIR, or --resume."
        )


def _local_file(weights: str) -> Path | None:
    """Return the file that MODEL.WEIGHTS names without a download."""
    plain = weights.partition("#")[0]
    if "://" not in plain:
        return find_file(weights) if weights else None
    name = plain.removeprefix("cvpods://")
    return find_in_weights_folder([name, f"{name}/model_final.pth"])
