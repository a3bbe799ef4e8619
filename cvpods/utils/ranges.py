"""Ranges of the numbers in a config, and their checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from cvpods.utils.errors import ConfigError


class Range(NamedTuple):
    """Range of finite numbers from `low` to `high`.

    inside: exclude the bounds.
    whole: allow whole numbers only.
    """

    low: float
    high: float = math.inf
    inside: bool = False
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Return True if a value is a number in the range."""
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        if abs(value) == math.inf or (self.whole and not isinstance(value, int)):
            return False
        return self.low < value < self.high if self.inside else self.low <= value <= self.high

    def __str__(self) -> str:
        """Return the range in words, to follow "must be"."""
        kind = "a whole number" if self.whole else "a number"
        if self.high == math.inf:
            return f"{kind} {'>' if self.inside else '>='} {self.low}"
        if self.inside:
            return f"{kind} between {self.low} and {self.high}"
        return f"{kind} from {self.low} to {self.high}"


AUTO = "auto"


def read_auto(name: str, value: Any) -> float | None:
    """Return the value of a key that is a number above 0 or "auto"; None for "auto".

    Args:
        name: of the key, for the message.

    Raises:
        ConfigError: the value is neither.
    """
    if value == AUTO:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number < math.inf:
        raise ConfigError(f"{name} must be 'auto' or a number above 0; got {value!r}.")
    return number


def check_ranges(name: str, group: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Check the values of a group of keys; keys that the group does not have are skipped.

    Args:
        name: of the group ("MODEL.ATSS"), for the message.

    Raises:
        ConfigError: a value is out of range. The message names the key, the value and the range.
    """
    for key, allowed in ranges.items():
        if key in group and not allowed.holds(group[key]):
            raise ConfigError(f"{name}.{key} must be {allowed}; got {group[key]!r}.")
