"""Fixtures: where data is, small data sets, experiment folders, and the commands as typed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from loguru import logger

from cvpods.utils import logger as log_module
from cvpods_ext.configs import fragments
from tests import command_server
from tests.load_script import ROOT, load_script

SHARED = Path(os.environ.get("CVPODS_SHARED", ROOT.parent / "shared"))
# The test processes share the cores: one thread each, in the processes that they start too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# What -m smoke runs besides one test of every file: a command, and a tiny training and evaluation.
SMOKE = ("test_pods_test_chooses_weights", "test_old_style_experiment")
# The files that take longest, longest first.
LONGEST = (
    "test_parity",
    "test_agreement",
    "test_docs",
    "test_processes",
    "test_kills",
    "test_start_methods",
    "test_bccd_exports",
    "test_other_systems",
    "test_export",
    "test_commands",
    "test_detector",
)
# Fixtures that take seconds.
SLOW_FIXTURES = {"exported", "graphs", "programs", "run_command", "template"}


def is_quick(item: pytest.Item) -> bool:
    """Return whether a test is expected to take less than a second."""
    return not (
        {"slow", "gpu", "coco"} & set(item.keywords)
        or SLOW_FIXTURES & set(getattr(item, "fixturenames", ()))
    )


def mark_smoke(items: list[pytest.Item]) -> None:
    """Mark the selection for daily work: SMOKE, and one quick test of every file.

    A file's hand-computed case stands for it, otherwise its first quick test.
    """
    chosen: dict[Path, pytest.Item] = {}
    for item in items:
        if item.name.partition("[")[0] in SMOKE:
            item.add_marker("smoke")
        elif is_quick(item):
            first = chosen.setdefault(item.path, item)
            if "hand" in item.name and "hand" not in first.name:
                chosen[item.path] = item
    for item in chosen.values():
        item.add_marker("smoke")


def spread(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """Return the items in an order of equal parts that each begin with slow files.

    Each process gets a part, and takes tests from the end of another part when it has finished its
    own (--dist worksteal), which short tests suit.
    """
    slow: dict[Path, list[pytest.Item]] = {}
    names = {item.path for item in items if "slow" in item.keywords or "playground" in item.nodeid}
    for item in items:
        if item.path in names:
            slow.setdefault(item.path, []).append(item)
    order = sorted(slow, key=lambda p: LONGEST.index(p.stem) if p.stem in LONGEST else len(LONGEST))
    parts: list[list[pytest.Item]] = [[] for _ in range(processes)]
    for number, path in enumerate(order):
        parts[number % processes] += slow[path]
    rest = [item for item in items if item.path not in names]
    size = -(-len(items) // processes)
    for part in parts:
        room = max(0, size - len(part))
        part += rest[:room]
        del rest[:room]
    return [item for part in parts for item in part] + rest


@pytest.hookimpl(tryfirst=True)  # -m needs the marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the smoke tests, skip what this machine cannot run, and spread the slow files."""
    mark_smoke(items)
    items[:] = spread(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if "coco" in item.keywords and not (SHARED / "data" / "coco").is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no COCO subset in {SHARED / 'data'}"))


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a small `shapes` data set: 24 training and 8 validation images."""
    root = tmp_path_factory.mktemp("data")
    load_script("datasets/make_shapes.py").make_shapes(root / "shapes", train=24, val=8, seed=0)
    return root


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines logged during the test, those that a process logs once included."""
    lines: list[str] = []
    log_module._SEEN.clear()
    sink = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(sink)


def command_environment(data: Path) -> dict[str, str]:
    """Of commands in the tests: their data, one thread, no GPU."""
    own = {"CVPODS_DATASETS": str(data), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **own}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the project's commands, which start in a fraction of a second."""
    folder = tmp_path_factory.mktemp("commands") / "bin"
    with command_server.server(folder):
        yield folder


@pytest.fixture
def run_command(shapes_root: Path, programs: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run a command of the project as a user types it, in a folder; returns the finished process.

    Data is the small shapes data set. With `real`, the command is the installed one, and its
    process imports everything itself.
    """

    def run(
        words: list[str], cwd: Path, status: int | None = 0, real: bool = False, **env: str
    ) -> subprocess.CompletedProcess:
        program = programs / words[0]
        if real or not program.is_file():
            program = Path(sys.executable).parent / words[0]
        result = subprocess.run(
            [str(program), *map(str, words[1:])],
            cwd=cwd,
            env={**command_environment(shapes_root), **env},
            capture_output=True,
            text=True,
            timeout=600,
        )
        if status is not None:
            assert result.returncode == status, f"{words}\n{result.stdout}\n{result.stderr}"
        return result

    return run


def wrap_net(experiment: Path, net: str) -> None:
    """Give an experiment another net.py; its own is the module net_of_experiment."""
    (experiment / "net.py").rename(experiment / "net_of_experiment.py")
    (experiment / "net.py").write_text(net)


# A net small enough for a training step in a fraction of a second.
TINY = {
    # GroupNorm has 32 groups, and wants two values in each, also in a map of one cell.
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.ATSS.NUM_CONVS": 1,
    **fragments.train_scales([64], 96),
    **fragments.test_scale(64, 96),
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.IMS_PER_DEVICE": 2,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.LR_SCHEDULER.MAX_ITER": 4,
    "SOLVER.LR_SCHEDULER.STEPS": (),
    "DATALOADER.NUM_WORKERS": 0,
    "GLOBAL.LOG_INTERVAL": 1,
    "SEED": 3,
}


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A folder with a tiny ATSS experiment on the shapes data set."""
    folder = tmp_path / "atss.tiny"
    folder.mkdir()
    source = (ROOT / "playground/atss.res18.shapes/config.py").read_text()
    (folder / "config.py").write_text(f"{source}\nconfig.override({TINY!r})\n")
    (folder / "net.py").write_text((ROOT / "playground/atss.res18.shapes/net.py").read_text())
    return folder
