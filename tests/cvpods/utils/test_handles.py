"""Behaviour with too few file handles for the workers of a loader."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from cvpods.tools.errors import reporting_errors
from cvpods.utils import handles
from cvpods.utils.errors import ConfigError, DataError
from cvpods.utils.handles import is_out_of_handles, raise_handle_limit
from tests.conftest import command_environment

NEEDED = 32 + 2 * (8 + 8 * 3)  # 2 workers of 3 images: 96


class Limits:
    """Stand-in for the module resource, with one limit."""

    RLIMIT_NOFILE, RLIM_INFINITY = 7, -1

    def __init__(self, soft: int, hard: int):
        self.limit = (soft, hard)

    def getrlimit(self, which):
        return self.limit

    def setrlimit(self, which, limit):
        self.limit = limit


@pytest.mark.parametrize(
    "limit, after",
    [
        ((1024, 4096), (1024, 4096)),  # enough
        ((64, 4096), (NEEDED, 4096)),  # raised to what is needed
        ((64, -1), (NEEDED, -1)),
        ((-1, -1), (-1, -1)),
        ((50, 60), (60, 60)),  # as far as it may
    ],
)
def test_the_limit_is_raised(monkeypatch, limit, after):
    monkeypatch.setattr(handles, "resource", Limits(*limit))
    raise_handle_limit(2, 3)
    assert handles.resource.limit == after
    assert ("ulimit -n" in handles.scarcity_hint()) == (after == (60, 60))


def test_workers_that_cannot_be_started(monkeypatch):
    """2 workers need 48 files to start."""
    monkeypatch.setattr(handles, "resource", Limits(47, 47))
    with pytest.raises(ConfigError, match="ulimit -n 65536 .47 now.*DATALOADER.NUM_WORKERS"):
        raise_handle_limit(2, 3)
    raise_handle_limit(0, 3)


def test_without_limits(monkeypatch):
    """The module resource is missing, as on Windows."""
    monkeypatch.setattr(handles, "resource", None)
    raise_handle_limit(2, 3)
    assert "ulimit -n 65536, or" in handles.describe_handles()


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


TOO_MANY = OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    "error, expected",
    [
        (TOO_MANY, True),
        (OSError(errno.ENFILE, "system"), True),
        (RuntimeError("unable to open shared memory object: Too many open files (24)"), True),
        (RuntimeError("received 0 items of ancdata"), True),
        (caused(DataError("x.jpg cannot be read"), TOO_MANY), True),
        (OSError(errno.ENOENT, "no file"), False),
        (RuntimeError("boom"), False),
        (KeyError("Too many open files"), False),
    ],
)
def test_errors(error, expected, capsys):
    assert is_out_of_handles(error) is expected
    if expected:
        with pytest.raises(SystemExit), reporting_errors():
            raise error
        printed = capsys.readouterr().err
        assert "DATALOADER.NUM_WORKERS" in printed and "ulimit -n" in printed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit")
@pytest.mark.parametrize("limit", [24, 85])
def test_a_training_with_few(experiment, shapes_root, limit):
    """Too few to start 6 workers, or too few for the images that the workers send."""
    command = Path(sys.executable).parent / "pods_train"
    words = "TEST.EVAL_PERIOD -1 DATALOADER.NUM_WORKERS 6 SOLVER.LR_SCHEDULER.MAX_ITER 40"
    result = subprocess.run(
        ["bash", "-c", f"ulimit -n {limit}; exec {command} {words}"],
        cwd=experiment,
        env=command_environment(shapes_root),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "Traceback" not in result.stderr
    if result.returncode == 0:  # the images were fetched fast enough
        assert limit == 85 and "ulimit -n" in result.stderr
        return
    last = result.stderr.strip().splitlines()[-1]
    assert "DATALOADER.NUM_WORKERS" in last and "ulimit -n" in last, result.stderr[-2000:]
