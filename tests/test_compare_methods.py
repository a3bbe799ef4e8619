"""scripts/compare_methods.py: the tables of docs/comparison.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cvpods.tools.experiment import load_experiment
from tests.load_script import ROOT, load_script

SCRIPT = ROOT / "scripts" / "compare_methods.py"


script = load_script("scripts/compare_methods.py")
ROWS = [("shapes", title) for title in script.SHAPES] + [("bccd", title) for title in script.BCCD]


@pytest.mark.parametrize(("data", "title"), ROWS, ids=str)
def test_every_row_has_an_experiment_that_takes_its_overrides(data, title):
    """All rows of a table have one budget: iterations, batch, learning rate, images, pyramid."""
    rows = script.SHAPES if data == "shapes" else script.BCCD
    configs = []
    for _, experiment, own in (rows[title], rows["ATSS"]):
        config, _ = load_experiment(ROOT / "playground" / experiment)
        config.merge_from_list([*script.BUDGETS[data], *own])
        configs.append(config)
    one, other = configs
    assert one.SOLVER.IMS_PER_BATCH == other.SOLVER.IMS_PER_BATCH
    for key in ("NAME", "MAX_ITER", "WARMUP_ITERS"):
        assert one.SOLVER.LR_SCHEDULER[key] == other.SOLVER.LR_SCHEDULER[key]
    for key in ("NAME", "BASE_LR", "WEIGHT_DECAY"):
        assert one.SOLVER.OPTIMIZER[key] == other.SOLVER.OPTIMIZER[key]
    assert one.INPUT == other.INPUT and one.DATASETS == other.DATASETS
    assert one.MODEL.FPN == other.MODEL.FPN


def finished_run(output: Path, name: str, seed: int, ap: float, words: list[str]) -> None:
    """Write what a run on the shapes leaves."""
    folder = output / f"shapes.{name}.{seed}"
    path = folder / "inference" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"bbox": {"AP": ap, "AP50": 2 * ap}}))
    Path(f"{folder}.settings.json").write_text(json.dumps(words))


def words_of(experiment: str, seed: int, own: tuple[str, ...]) -> list[str]:
    return [experiment, "SEED", str(seed), "DATALOADER.NUM_WORKERS", "1", *own]


def run(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_finished_runs_are_not_repeated(tmp_path):
    """Rows of means and of every seed: (10 + 11.2) / 2 = 10.6."""
    for index, (name, experiment, own) in enumerate(script.SHAPES.values()):
        for seed, ap in ((3, 10), (5, 11.2)):
            finished_run(tmp_path, name, seed, ap + index, words_of(experiment, seed, own))
    result = run("shapes", "--seeds", "3", "5", "--output", str(tmp_path))
    lines = result.stdout.splitlines()
    assert lines[2] == "| ATSS | 10.6 | 21.2 | 10.0, 11.2 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {t}" for t in script.SHAPES]


def test_runs_of_other_settings_are_refused(tmp_path):
    words = words_of("atss.res18.shapes", 3, ("SOLVER.LR_SCHEDULER.MAX_ITER", "9"))
    finished_run(tmp_path, "atss", 3, 10.0, words)
    result = run("shapes", "--seeds", "3", "--output", str(tmp_path))
    assert result.returncode == 1
    assert "shapes.atss.3 holds a run with other settings; remove it" in result.stderr


def test_a_failed_run_is_named(tmp_path, monkeypatch):
    """The run fails because it finds no data."""
    monkeypatch.setenv("CVPODS_DATASETS", str(tmp_path))
    with pytest.raises(SystemExit, match="atss.res18.shapes, seed 0, failed; see .*log"):
        script.train("atss.res18.shapes", 0, tmp_path / "out", ("SOLVER.NAME", "x"))
    assert "SOLVER.NAME" in (tmp_path / "out.log").read_text()


def test_bccd_needs_weights(tmp_path):
    result = run("bccd", "--weights", str(tmp_path / "none.pth"))
    assert result.returncode == 2 and "none.pth" in result.stderr
