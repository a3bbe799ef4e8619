"""Composition of an experiment's config from a method's config class and fragments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from cvpods.configs import BaseConfig
from cvpods.utils.errors import ConfigError

Config = TypeVar("Config", bound=BaseConfig)


def compose(
    base: type[Config], *fragments: Mapping[str, Any], experiment: str | Path | None = None
) -> Config:
    """Return a `base` configuration with the fragments applied in order.

    Args:
        base: the method's config class.
        fragments: {dotted key: value}. Every key must exist; every value must have its type.
        experiment: `__file__` of the experiment's config.py. OUTPUT_DIR becomes `output` in its
            folder, or $CVPODS_OUTPUT/<folder name> if that variable is set.

    Raises:
        ConfigError: the message names all unknown keys, each with the nearest known one, and all
            values of the wrong type.
    """
    config = base()
    errors = []
    for fragment in fragments:
        try:
            config.override(fragment)
        except ConfigError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError("\n".join(errors))
    if experiment is not None:
        config.OUTPUT_DIR = str(_output_dir(Path(experiment).resolve().parent))
    return config


def _output_dir(folder: Path) -> Path:
    """Return OUTPUT_DIR of an experiment's folder."""
    root = os.environ.get("CVPODS_OUTPUT")
    return Path(root) / folder.name if root else folder / "output"
