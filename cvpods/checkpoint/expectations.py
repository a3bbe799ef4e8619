"""Check that a config gives weights the input and the network that they were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

from loguru import logger

from cvpods.configs.config_dict import flatten
from cvpods.utils.errors import ConfigError
from cvpods.utils.ranges import AUTO

if TYPE_CHECKING:
    from cvpods.configs.config_dict import ConfigDict

# Publishers round ImageNet's mean and standard deviation differently: 102.9801 and 103.53.
TOLERANCES = {"MODEL.PIXEL_MEAN": 1.0, "MODEL.PIXEL_STD": 0.1}


def check_expectations(config: ConfigDict, expects: Mapping[str, Any], source: str) -> None:
    """Compare keys of `config` with the values that weights expect.

    A key of the config that is "auto" is set to the value that the weights expect.

    Args:
        expects: {dotted key: value}. Keys that the config does not have are not compared. "MODEL"
            lists the methods of the weights; the config must have the group of at least one.
        source: names the weights in the message.

    Raises:
        ConfigError: values differ, and MODEL.CHECK_WEIGHTS is not False. The message lists them.
    """
    values = _settle_auto(config, expects, source)
    methods = expects.get("MODEL")
    methods = methods if isinstance(methods, (list, tuple)) else []
    if methods and not any(method in config.MODEL for method in methods):
        reason = f"  they are of {' or '.join(methods)}, which the config does not have"
        _refuse(config, f"{source}: the config does not fit these weights.\n{reason}", "")
        return
    wrong = differences(values, expects)
    if not wrong:
        return
    lines = [f"  {key} is {values[key]!r}; they expect {value!r}" for key, value in wrong.items()]
    overrides = " ".join(f'{key} "{value}"' for key, value in wrong.items())
    message = "\n".join([f"{source}: the config does not fit these weights.", *lines])
    remedies = (
        "Write these values into config.py (pretrained(), mmdetection() and mrcnn() of "
        f"cvpods_ext.configs.frameworks do so), or override them: {overrides}. "
    )
    _refuse(config, message, remedies)


def _settle_auto(config: ConfigDict, expects: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Set keys that are "auto" to the expected values; return all values of the config."""
    values = dict(flatten(config))
    for key in [key for key in expects if values.get(key) == AUTO]:
        config.merge_from_list([key, expects[key]])
        logger.info(f"{key} is {expects[key]}, as {source} expects.")
    return dict(flatten(config))


def differences(values: Mapping[str, Any], expects: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `expects` whose value differs in `values`; missing keys are skipped."""
    return {
        key: expected
        for key, expected in expects.items()
        if key in values and not _are_equal(values[key], expected, TOLERANCES.get(key, 1e-6))
    }


def _refuse(config: ConfigDict, message: str, remedies: str) -> None:
    """Raise ConfigError, or log a warning if MODEL.CHECK_WEIGHTS is False."""
    if config.MODEL.get("CHECK_WEIGHTS", True):
        raise ConfigError(
            f"{message}\n{remedies}To continue regardless: MODEL.CHECK_WEIGHTS False."
        )
    logger.warning(message)


def _are_equal(value: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        pairs = zip(value, expected, strict=False)
        return len(value) == len(expected) and all(_are_equal(v, e, tolerance) for v, e in pairs)
    if _is_number(value) and _is_number(expected):
        return abs(value - expected) <= tolerance
    if isinstance(value, str) and isinstance(expected, str) and value != expected:
        return _as_number(value) == _as_number(expected)
    return value == expected


def _as_number(text: str) -> float | str:
    """Return a text as a number if it is one ("4095" equals "4095.0"), otherwise the text."""
    try:
        return float(text)
    except ValueError:
        return text


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
