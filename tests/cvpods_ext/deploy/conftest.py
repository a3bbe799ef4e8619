"""Graphs of small detectors, each exported once for all test processes and kept between runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cvpods_ext.deploy.small import EXPERIMENTS, export_small, folder_of, name_of
from tests.load_script import ROOT

# Packages that take part in an export.
PACKAGES = ("torch", "torchvision", "numpy", "onnx", "onnxscript", "onnxslim")
# Number of versions of the sources whose graphs are kept.
VERSIONS = 3


def version() -> str:
    """Return a hash of what a graph depends on: the sources and the packages."""
    folders = [ROOT / "cvpods", ROOT / "cvpods_ext", *map(folder_of, EXPERIMENTS)]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    digest = hashlib.sha256()
    for path in (*files, Path(__file__).parent / "small.py"):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    installed = {d.name: d.version for d in metadata.distributions() if d.name in PACKAGES}
    digest.update(json.dumps(installed, sort_keys=True).encode())
    return digest.hexdigest()[:20]


def graphs_folder(config: pytest.Config, base: Path) -> Path:
    """Return the folder of this version's graphs: in pytest's cache, or in `base` without one."""
    if not hasattr(config, "cache"):  # -p no:cacheprovider
        return base / "graphs"
    folders = config.cache.mkdir("graphs")
    folder = folders / version()
    folder.mkdir(exist_ok=True)
    os.utime(folder)
    with FileLock(folders / "lock"):
        used = sorted((path for path in folders.iterdir() if path.is_dir()), key=os.path.getmtime)
        for old in used[:-VERSIONS]:
            shutil.rmtree(old)
    return folder


@pytest.fixture(scope="session")
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """exported(method, *flags of pods_export): the graph's file. Tests do not change it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = graphs_folder(request.config, base)
    folder.mkdir(exist_ok=True)

    @cache
    def find(method: str, *flags: str) -> Path:
        target = folder / name_of(method, *flags)
        # One lock for all: two exports at once would take as long as one after the other.
        with FileLock(folder / "lock"):
            if not target.exists():
                with tempfile.TemporaryDirectory(dir=folder) as unfinished:
                    os.replace(export_small(method, Path(unfinished), *flags), target)
        return target

    return find
