"""An upstream cvpods in the same environment is named, with the way out."""

from __future__ import annotations

import os
import subprocess
import sys


def import_with(path, module: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        env={**os.environ, "PYTHONPATH": str(path)},
        cwd=path,
        capture_output=True,
        text=True,
    )


def test_installed_distribution(tmp_path):
    info = tmp_path / "cvpods-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cvpods\nVersion: 0.1\n")
    result = import_with(tmp_path, "cvpods")
    assert result.returncode != 0
    assert "upstream cvpods 0.1 is installed in" in result.stderr
    assert "pip uninstall -y cvpods" in result.stderr


def test_package_that_comes_first(tmp_path):
    (tmp_path / "cvpods").mkdir()
    (tmp_path / "cvpods" / "__init__.py").write_text("")
    result = import_with(tmp_path, "cvpods_ext")
    assert result.returncode != 0
    assert "another package than this project's" in result.stderr
    assert str(tmp_path) in result.stderr
