"""A reader's way from a detector's `losses` to the formula stays short."""

from __future__ import annotations

import pytest

from tests.load_script import load_script

script = load_script("scripts/reading_path.py")


@pytest.mark.parametrize("method", script.METHODS)
def test_reading_path_is_short(method):
    files, definitions, _ = script.summary(script.reading_path(method))
    assert files <= 4 and definitions <= 25


def test_reading_path_finds_the_formula():
    names = [d.name for d in script.reading_path("feature_align")]
    assert names[:2] == ["FeatureAlign.losses", "feature_align_loss"]
    for name in ("AutoAssign.loss_inputs", "misalignment_score", "positive_loss", "in_chunks"):
        assert name in names
    assert "atss_assign" in [d.name for d in script.reading_path("atss")]
    assert "chunks" not in names
    assert "chunks" in [d.name for d in script.reading_path("feature_align", everything=True)]
