"""The log of a run: its place for unusual names of OUTPUT_DIR, and obstacles in its place."""

from __future__ import annotations

import gc
import os
import sys

import pytest
from loguru import logger

from cvpods.engine.defaults import default_setup
from cvpods.tools.experiment import load_experiment
from cvpods.utils import logger as log_module
from cvpods.utils.errors import ConfigError
from cvpods.utils.logger import setup_logger


@pytest.fixture(autouse=True)
def plain_log():
    yield
    setup_logger()


NAMES = [
    "runs/{exp}",
    "{time}",
    "{",
    "}",
    "{}",
    "{0}",
    "{{a}}",
    "{time:YYYY}",
    "%s",
    "a b",
    "[x]*é",
]
if sys.platform == "win32":
    NAMES = NAMES[:7]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rank, file", [(0, "log.txt"), (1, "log.txt.rank1")])
def test_names_are_taken_as_they_are(tmp_path, name, rank, file):
    setup_logger(tmp_path / name, rank)
    logger.info("a line with {braces}")
    setup_logger()
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert found == [tmp_path / name / file]
    assert "a line with {braces}" in found[0].read_text(encoding="utf-8")


def set_up(experiment, output):
    config, _ = load_experiment(experiment)
    config.OUTPUT_DIR = str(output)
    config.MODEL.DEVICE = "cpu"
    default_setup(config, None)


def test_a_folder_in_the_place_of_the_log(experiment, tmp_path):
    (tmp_path / "o/log.txt").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"The log .*log\.txt cannot be written: .*OUTPUT_DIR"):
        set_up(experiment, tmp_path / "o")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
@pytest.mark.parametrize("what", ["o", "o/log.txt"])
def test_without_permission(experiment, tmp_path, what):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/log.txt").touch()
    (tmp_path / what).chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        set_up(experiment, tmp_path / "o")


@pytest.mark.parametrize("where", ["mkdir", "file", "log"])
def test_permission_is_denied(experiment, tmp_path, monkeypatch, where):
    """Without root's rights: for the folder, for a file in its place, and for the log."""

    def deny(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    name = {"mkdir": "pathlib.Path.mkdir", "file": "tempfile.TemporaryFile"}.get(where)
    if name:
        monkeypatch.setattr(name, deny)
    else:
        monkeypatch.setattr(log_module, "_LogFile", deny)
    with pytest.raises(ConfigError, match="cannot be written.*Permission denied.*OUTPUT"):
        set_up(experiment, tmp_path / "o")


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_a_file_in_the_place_of_the_folder(experiment, tmp_path, output):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR .*file.* cannot be written to"):
        set_up(experiment, tmp_path / output)


@pytest.mark.slow
def test_a_training_with_braces_in_its_name(experiment, run_command):
    """All files of pods_train and pods_test are in that folder, and none outside it."""
    words = ["SOLVER.LR_SCHEDULER.MAX_ITER", "1", "OUTPUT_DIR", "runs/{exp}"]
    run_command(["pods_train", *words], experiment)
    run_command(["pods_test", *words], experiment)
    output = experiment / "runs/{exp}"
    assert [path.name for path in (experiment / "runs").iterdir()] == ["{exp}"]
    for name in ("log.txt", "config.json", "model_final.pth", "inference/results.json"):
        assert (output / name).is_file(), name
    assert list(output.glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_a_training_whose_log_is_a_folder(experiment, run_command):
    (experiment / "output/log.txt").mkdir(parents=True)
    result = run_command(["pods_train", "--num-processes", "2"], experiment, status=1)
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: The log") == 1


def test_a_full_disk_is_said_once(tmp_path, monkeypatch, capsys):
    """The failure is reported once, without a traceback. Later lines are written if possible."""
    setup_logger(tmp_path)
    file = next(sink for sink in gc.get_objects() if isinstance(sink, log_module._LogFile))
    real = file._file

    class Full:
        def write(self, content):
            raise OSError(28, "No space left on device")

    file._file = Full()
    for number in range(3):
        logger.info(f"line {number}")
    file._file = real
    logger.info("line 3")
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 1 and "log.txt cannot be written" in said
    assert "Logging error" not in said and "Traceback" not in said
    assert "line 3" in (tmp_path / "log.txt").read_text()
