"""What single numbers of a configuration may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from cvpods.utils.errors import ConfigError


class Range(NamedTuple):
    """Finite numbers from low to high, both included unless `inside`; whole ones if `whole`."""

    low: float
    high: float = math.inf
    inside: bool = False
    whole: bool = False

    def holds(self, value: Any) -> bool:
        kinds = int if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or abs(value) == math.inf:
            return False
        return self.low < value < self.high if self.inside else self.low <= value <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.high == math.inf:
            return f"{kind} {'>' if self.inside else '>='} {self.low}"
        if self.inside:
            return f"{kind} between {self.low} and {self.high}"
        return f"{kind} from {self.low} to {self.high}"


AUTO = "auto"


def read_auto(name: str, value: Any) -> float | None:
    """Return the value of a key that is a number above 0 or "auto"; None for "auto".

    Raises:
        ConfigError: it is neither; names the key.
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
    """Check the values that a group of keys has of those in `ranges`.

    Args:
        name: of the group ("MODEL.ATSS"), for the message.

    Raises:
        ConfigError: naming the key, its value and what it may be.
    """
    for key, allowed in ranges.items():
        if key in group and not allowed.holds(group[key]):
            raise ConfigError(f"{name}.{key} must be {allowed}; got {group[key]!r}.")
