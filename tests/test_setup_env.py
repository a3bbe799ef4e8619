"""scripts/setup_env.sh: the choice of a Python."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.load_script import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def find_python(folder: Path, suitable: list[str], others: list[str], **env: str):
    """Return its result among commands that pass its check and commands that fail it."""
    for name in (*suitable, *others):
        path = folder / name
        path.write_text(f"#!/bin/sh\nexit {int(name in others)}\n")
        path.chmod(0o755)
    return subprocess.run(
        [shutil.which("bash"), "-c", ". scripts/setup_env.sh; find_python"],
        cwd=ROOT,
        env={"PATH": str(folder), **env},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "suitable, others, expected",
    [
        (["python3.14"], [], "python3.14"),
        (["python3.14", "python3.11"], [], "python3.11"),
        (["python3.12", "python3.13"], [], "python3.13"),
        (["python3.12"], ["python3.13"], "python3.12"),
        (["python3"], [], "python3"),
    ],
)
def test_the_order(tmp_path, suitable, others, expected):
    """Versions that were run, then the newest, then whatever python3 is."""
    assert find_python(tmp_path, suitable, others).stdout.strip() == expected


def test_none(tmp_path):
    result = find_python(tmp_path, [], ["python3"])
    assert result.returncode == 1
    assert "Python 3.10 or newer with the module venv was not found" in result.stderr
    assert "PYTHON=/path" in result.stderr


def test_the_users_choice(tmp_path):
    """This interpreter answers the question itself."""
    result = find_python(tmp_path, ["python3.13"], [], PYTHON=sys.executable)
    assert result.stdout.strip() == sys.executable
