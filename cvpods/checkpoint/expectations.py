"""Weights were trained on one input and network; a config that gives them another is refused."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from loguru import logger

from cvpods.configs.config_dict import flatten
from cvpods.utils.errors import ConfigError

# Publishers round ImageNet's mean and standard deviation differently: 102.9801 and 103.53.
TOLERANCES = {"MODEL.PIXEL_MEAN": 1.0, "MODEL.PIXEL_STD": 0.1}


def check_expectations(config: Any, expects: Mapping[str, Any], source: str) -> None:
    """Compare keys of `config` with what weights expect.

    Args:
        expects: {dotted key: value}; keys that the config does not have are left out.
        source: names the weights in the message.

    Raises:
        ConfigError: values differ, unless MODEL.CHECK_WEIGHTS is False; lists them.
    """
    values = dict(flatten(config))
    wrong = {
        key: value
        for key, value in expects.items()
        if key in values and not _same(values[key], value, TOLERANCES.get(key, 1e-6))
    }
    if not wrong:
        return
    lines = [f"  {key} is {values[key]!r}; they expect {value!r}" for key, value in wrong.items()]
    overrides = " ".join(f'{key} "{value}"' for key, value in wrong.items())
    message = "\n".join([f"{source}: the config does not fit these weights.", *lines])
    if not values.get("MODEL.CHECK_WEIGHTS", True):
        logger.warning(message)
        return
    raise ConfigError(
        f"{message}\nWrite these values into config.py (pretrained(), mmdetection() and mrcnn() of "
        f"cvpods_ext.configs.frameworks do so), or override them: {overrides}; to go on "
        "regardless: MODEL.CHECK_WEIGHTS False."
    )


def _same(value: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        pairs = zip(value, expected, strict=False)
        return len(value) == len(expected) and all(_same(v, e, tolerance) for v, e in pairs)
    if _is_number(value) and _is_number(expected):
        return abs(value - expected) <= tolerance
    return value == expected


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
