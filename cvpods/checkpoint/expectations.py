"""Weights were trained on one input and network; a config that gives them another is refused."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from loguru import logger

from cvpods.configs.config_dict import flatten
from cvpods.utils.errors import ConfigError
from cvpods.utils.ranges import AUTO

# Publishers round ImageNet's mean and standard deviation differently: 102.9801 and 103.53.
TOLERANCES = {"MODEL.PIXEL_MEAN": 1.0, "MODEL.PIXEL_STD": 0.1}


def check_expectations(config: Any, expects: Mapping[str, Any], source: str) -> None:
    """Compare keys of `config` with what weights expect.

    Args:
        expects: {dotted key: value}; keys that the config does not have are left out. "MODEL" has
            names of groups, of which the config must have one: the methods of the weights.
        source: names the weights in the message.

    Raises:
        ConfigError: values differ, unless MODEL.CHECK_WEIGHTS is False; lists them.

    A key of the config that is "auto" takes the value that the weights expect.
    """
    values = _settle_auto(config, expects, source)
    methods = expects.get("MODEL")
    methods = methods if isinstance(methods, (list, tuple)) else []
    if methods and not any(method in config.MODEL for method in methods):
        wrong = f"  they are of {' or '.join(methods)}, which the config does not have"
        _refuse(config, f"{source}: the config does not fit these weights.\n{wrong}", "")
        return
    wrong = differences(values, expects)
    if not wrong:
        return
    lines = [f"  {key} is {values[key]!r}; they expect {value!r}" for key, value in wrong.items()]
    overrides = " ".join(f'{key} "{value}"' for key, value in wrong.items())
    message = "\n".join([f"{source}: the config does not fit these weights.", *lines])
    ways = (
        "Write these values into config.py (pretrained(), mmdetection() and mrcnn() of "
        f"cvpods_ext.configs.frameworks do so), or override them: {overrides}. "
    )
    _refuse(config, message, ways)


def _settle_auto(config: Any, expects: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Set keys that are "auto" to what the weights expect; return all values of the config."""
    values = dict(flatten(config))
    for key in [key for key in expects if values.get(key) == AUTO]:
        config.merge_from_list([key, expects[key]])
        logger.info(f"{key} is {expects[key]}, as {source} expects.")
    return dict(flatten(config))


def differences(values: Mapping[str, Any], expects: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `expects` that flat `values` have otherwise; keys that they lack are left out."""
    return {
        key: expected
        for key, expected in expects.items()
        if key in values and not _same(values[key], expected, TOLERANCES.get(key, 1e-6))
    }


def _refuse(config: Any, message: str, ways: str) -> None:
    """An error, or where the config says so a warning."""
    if config.MODEL.get("CHECK_WEIGHTS", True):
        raise ConfigError(f"{message}\n{ways}To go on regardless: MODEL.CHECK_WEIGHTS False.")
    logger.warning(message)


def _same(value: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        pairs = zip(value, expected, strict=False)
        return len(value) == len(expected) and all(_same(v, e, tolerance) for v, e in pairs)
    if _is_number(value) and _is_number(expected):
        return abs(value - expected) <= tolerance
    if isinstance(value, str) and isinstance(expected, str) and value != expected:
        return _as_number(value) == _as_number(expected)
    return value == expected


def _as_number(text: str) -> float | str:
    """Return the number that a text is ("4095" and "4095.0" are the same), otherwise the text."""
    try:
        return float(text)
    except ValueError:
        return text


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
