"""The start of every run: checks of the config, output folder, log, seed and device."""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from loguru import logger

from cvpods.checkpoint.atomic import write_file
from cvpods.configs.config_dict import flatten
from cvpods.configs.validation import check_config
from cvpods.modeling.test_time_augmentation import augmentation_arguments
from cvpods.utils import comm
from cvpods.utils.env import collect_env_info, seed_all_rng, select_device
from cvpods.utils.errors import ConfigError
from cvpods.utils.logger import setup_logger

if TYPE_CHECKING:
    from cvpods.configs import BaseConfig

_Config = TypeVar("_Config", bound="BaseConfig")


def default_setup(cfg: _Config, args: Namespace | None) -> _Config:
    """Make OUTPUT_DIR, start the log, choose the device and the seed; return `cfg`.

    A negative SEED is replaced by a random one, the same on all ranks.
    """
    check_setup(cfg)
    output = Path(cfg.OUTPUT_DIR)
    _check_writable(output)
    setup_logger(output, comm.get_rank())
    logger.info(f"Rank {comm.get_rank()} of {comm.get_world_size()}\n{collect_env_info()}")
    logger.info(f"Arguments: {args}")
    cfg.MODEL.DEVICE = select_device(cfg.MODEL.DEVICE)
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed() % 2**31
    seed_all_rng(cfg.SEED)
    torch.backends.cudnn.benchmark = bool(cfg.CUDNN_BENCHMARK)
    return cfg


def _check_writable(output: Path) -> None:
    """Make the folder if needed, and check that files can be written to it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise ConfigError(
            f"OUTPUT_DIR {output} cannot be written to: {error}. Name another folder, or export "
            "CVPODS_OUTPUT=folder."
        ) from error


def check_setup(cfg: BaseConfig) -> None:
    """Check everything that can be checked before anything is built or written.

    Raises:
        ConfigError: a value that cannot be used.
    """
    check_config(cfg)
    refuse_unsupported(cfg)
    if cfg.TEST.AUG.ENABLED:
        augmentation_arguments(cfg)


# Keys of cvpods that this package accepts but does not support. Any value except this one is
# refused.
_WITHOUT_EFFECT = {
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.MASK_ON": False,
    "MODEL.KEYPOINT_ON": False,
    "DATALOADER.REPEAT_THRESHOLD": 0.0,
    "TEST.PRECISE_BN.ENABLED": False,
    "TEST.ON_FILES": False,
}


def refuse_unsupported(cfg: BaseConfig) -> None:
    """Check that the config asks for nothing that this package does not support.

    Raises:
        ConfigError: the message names all such keys.
    """
    values = dict(flatten(cfg))
    asked = [k for k, neutral in _WITHOUT_EFFECT.items() if values.get(k, neutral) != neutral]
    if asked:
        listed = ", ".join(f"{key} {values[key]!r}" for key in asked)
        raise ConfigError(f"Not supported: {listed}. Set it to its default.")


def dump_config(cfg: BaseConfig) -> None:
    """Write the resolved config to OUTPUT_DIR/config.json and, as a table, to the log."""
    if not comm.is_main_process():
        return
    logger.info(f"Configuration:\n{cfg!r}")
    base = type(cfg)()
    logger.info(f"Differs from {type(cfg).__name__} in:\n{cfg.diff(base)!r}")
    path = Path(cfg.OUTPUT_DIR) / "config.json"
    write_file(path, (json.dumps(dict(flatten(cfg)), indent=1, default=repr) + "\n").encode())


def check_num_classes(model: object, meta: Any, names: object) -> None:
    """Compare the model's number of classes with the data set's.

    Args:
        meta: of the data set, as a mapping or as attributes.
        names: the data sets, for the message.

    Raises:
        ConfigError: the numbers differ; the message has both.
    """
    expected = getattr(model, "num_classes", None)
    meta = meta if isinstance(meta, Mapping) else vars(meta)
    classes = meta.get("thing_classes")
    if expected is None or classes is None or expected == len(classes):
        return
    raise ConfigError(
        f"The model has NUM_CLASSES {expected}, but {names} has {len(classes)} classes "
        f"({', '.join(classes[:5])}, ...). Set MODEL.<method>.NUM_CLASSES to {len(classes)}."
    )
