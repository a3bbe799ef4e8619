"""Ranges of config values, and the message that refuses a value."""

from __future__ import annotations

import math

import pytest

from cvpods.utils.errors import ConfigError
from cvpods.utils.ranges import Range, check_ranges


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(0), [0, 0.5, 7], [-1e-9, -3, math.nan, math.inf]),
        (Range(0, 1), [0, 0.0, 0.5, 1], [-0.1, 1.1, math.nan]),
        (Range(0, 1, inside=True), [1e-9, 0.5], [0, 1, 0.0, 1.0, math.nan]),
        (Range(0, inside=True), [1e-9, 8], [0, -1, math.inf]),
        (Range(1, whole=True), [1, 80], [0, -3, 1.0, 2.5]),
    ],
    ids=str,
)
def test_what_a_range_holds(allowed, inside, outside):
    assert all(allowed.holds(value) for value in inside)
    assert not any(allowed.holds(value) for value in [*outside, None, "1", True, [1]])


@pytest.mark.parametrize(
    ("allowed", "text"),
    [
        (Range(0), "a number >= 0"),
        (Range(0, inside=True), "a number > 0"),
        (Range(0, 1), "a number from 0 to 1"),
        (Range(0, 1, inside=True), "a number between 0 and 1"),
        (Range(1, whole=True), "a whole number >= 1"),
    ],
)
def test_text(allowed, text):
    assert str(allowed) == text


def test_check_ranges():
    """Keys that the group does not have are skipped."""
    check_ranges("MODEL.X", {"A": 3, "B": "anything"}, {"A": Range(1), "C": Range(1)})
    with pytest.raises(ConfigError, match=r"^MODEL\.X\.A must be a number >= 4; got 3\.$"):
        check_ranges("MODEL.X", {"A": 3}, {"A": Range(4)})
