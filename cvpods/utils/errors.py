"""Errors that a user can act on: each names the thing, the value and the way out.

The commands print these errors without a traceback. Any other error is a defect of the program and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PodsError(ValueError):
    """Base of the errors in the user's input."""


class ConfigError(PodsError):
    """Error in a key or value of a config."""


class DataError(PodsError):
    """Error in a data set, an annotation file or an image."""


class CheckpointError(PodsError):
    """Error of a weights file that is missing, damaged, or of another model."""


class UnknownNameError(PodsError, KeyError):
    """Error of a name that a registry does not hold."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would quote it


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean X?" for the known name nearest to `name`; "" if none is near."""
    known, name = list(known), str(name)
    lowered = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return f" Did you mean {lowered[near[0]]}?" if near else ""
