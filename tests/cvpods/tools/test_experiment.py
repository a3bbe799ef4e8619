"""load_experiment: a wrong folder is named, with the nearest one."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import pytest
import torch

from cvpods.tools.errors import explain
from cvpods.tools.experiment import load_experiment, open_experiment
from cvpods.tools.output_folder import alone_in
from cvpods.tools.test import choose_weights
from cvpods.tools.weights import chosen_weights
from cvpods.utils.errors import CheckpointError, ConfigError


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


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def config(experiment, home):
    """OUTPUT_DIR ~/runs with checkpoints of 2, 4 and, in model_final, 6 iterations."""
    config, _ = open_experiment(experiment, ["OUTPUT_DIR", "~/runs"])
    folder = Path(config.OUTPUT_DIR)
    folder.mkdir(parents=True)
    for name, done in {"model_iter_0000002": 2, "model_iter_0000009": 4, "model_final": 6}.items():
        torch.save({"model": {}, "iteration": done - 1}, folder / f"{name}.pth")
    return config


def test_the_home_folder_in_output_dir(config, home, experiment):
    assert config.OUTPUT_DIR == str(home / "runs")
    assert open_experiment(experiment, ["OUTPUT_DIR", "x/~"])[0].OUTPUT_DIR == str(
        experiment / "x/~"
    )


@pytest.mark.parametrize("form", ["{}", "~/runs/model_final.pth", "{}#sha256={}", "cvpods://runs"])
def test_weights_that_a_new_run_would_move(form, config, home, monkeypatch):
    """However they are written, they are refused, and stay where they are."""
    monkeypatch.setenv("CVPODS_WEIGHTS", str(home))
    file = home / "runs/model_final.pth"
    config.MODEL.WEIGHTS = form.format(file, hashlib.sha256(file.read_bytes()).hexdigest())
    args = argparse.Namespace(machine_rank=0, resume=False)
    refused = pytest.raises(ConfigError, match="is of an earlier run in OUTPUT_DIR")
    with refused, alone_in(config, args):
        pass
    assert file.is_file()
    config.MODEL.WEIGHTS = ""
    with alone_in(config, args):
        assert not file.exists() and (home / "runs/earlier_1/model_final.pth").is_file()


@pytest.mark.parametrize("opts", [[], ["MODEL.WEIGHTS", ""], ["SEED", "MODEL.WEIGHTS"]])
def test_no_weights_are_the_newest(opts, config, home):
    assert chosen_weights(config, opts) == home / "runs/model_final.pth"
    config.MODEL.WEIGHTS = "other.pth"
    assert chosen_weights(config, ["MODEL.WEIGHTS", "other.pth"]) == "other.pth"


@pytest.mark.parametrize(
    "low, high, names",
    [
        (3, 5, ["model_iter_0000009"]),
        (6, None, ["model_final"]),
        (None, 4, ["model_iter_0000002", "model_iter_0000009"]),
        (7, None, []),
    ],
)
def test_bounds_count_the_iterations_inside(low, high, names, config):
    args = argparse.Namespace(start_iter=low, end_iter=high, opts=["MODEL.WEIGHTS", ""])
    if names:
        assert [Path(path).stem for path in choose_weights(args, config)] == names
    else:
        with pytest.raises(CheckpointError, match="between iterations 7 and inf"):
            choose_weights(args, config)


def test_a_full_disk_names_the_file():
    said = explain(OSError(28, "No space left on device", "results.json"))
    assert said.startswith("No space is left to write results.json: No space left on device.")
    assert "repeat the command" in said
