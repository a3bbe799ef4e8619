"""Errors that a user can act on: each names the thing, the value and the way out.

The command-line tools print these without a traceback; anything else is a defect of the program
and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PodsError(ValueError):
    """Base of the errors that come from the user's input."""


class ConfigError(PodsError):
    """A key or a value of a configuration cannot be used."""


class DataError(PodsError):
    """A data set, an annotation file or an image cannot be used."""


class CheckpointError(PodsError):
    """A weights file is missing, damaged, or belongs to another model."""


class UnknownNameError(PodsError, KeyError):
    """A name that a registry does not hold."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError's own would quote it


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean X?' for the known name nearest to `name`, or '' when none is near."""
    known, name = list(known), str(name)
    lowered = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return f" Did you mean {lowered[near[0]]}?" if near else ""
