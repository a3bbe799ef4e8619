"""load_experiment: a wrong folder is named, with the nearest one."""

from __future__ import annotations

import pytest

from cvpods.tools.experiment import load_experiment
from cvpods.utils.errors import ConfigError


def test_a_missing_folder(tmp_path):
    (tmp_path / "atss.res50.1x").mkdir()
    with pytest.raises(ConfigError, match=r"does not exist\. Did you mean atss\.res50\.1x\?"):
        load_experiment(tmp_path / "atss.res50.2x")
    with pytest.raises(ConfigError, match="nowhere/deeper does not exist"):
        load_experiment(tmp_path / "nowhere" / "deeper")


def test_a_file_and_an_empty_folder(tmp_path):
    (tmp_path / "config.py").touch()
    with pytest.raises(ConfigError, match=r"config\.py is a file, not a folder"):
        load_experiment(tmp_path / "config.py")
    with pytest.raises(ConfigError, match=r"is not an experiment: it has no net\.py"):
        load_experiment(tmp_path)
