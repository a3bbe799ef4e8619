"""Graphs of small detectors, each exported once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.cvpods_ext.deploy.small import export_small


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """exported(method, *flags of pods_export): the file."""
    folder = tmp_path_factory.mktemp("graphs")
    return cache(lambda method, *flags: export_small(method, folder, *flags))
