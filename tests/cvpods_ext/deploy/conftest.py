"""Graphs of small detectors, each exported once for all test processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cvpods_ext.deploy.small import export_small


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """exported(method, *flags of pods_export): the file."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "graphs"
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / "lock")

    @cache
    def find(method: str, *flags: str) -> Path:
        # One lock for all: two exports at once would take as long as one after the other.
        with lock:
            return export_small(method, folder, *flags)

    return find
