"""pods_check, pods_train, pods_test and --fix agree on 60 and more variants of one data set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY, command_environment
from tests.load_script import ROOT
from tests.reliability.agreement_driver import THOROUGH
from tests.reliability.variants import HOPELESS, REFUSED, RENAMED, SAME, USED, VARIANTS

# Errors that only training minds: there is nothing to learn from, but AP can be computed.
_OF_TRAINING = {"no box at all"}

_DIFFERENCE = """
import os
register_coco_instances("variant", os.path.join(os.environ["VARIANT"], os.environ["VARIANT_JSON"]),
                        os.path.join(os.environ["VARIANT"], "images"))
config.override({
    "DATASETS.TRAIN": ("variant",), "DATASETS.TEST": ("variant",), "MODEL.ATSS.NUM_CLASSES": 2,
    "MODEL.ATSS.SCORE_THRESH_TEST": 0.0, "SOLVER.LR_SCHEDULER.MAX_ITER": 2,
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 0, "SOLVER.OPTIMIZER.BASE_LR": 0.002,
    "SOLVER.CHECKPOINT_PERIOD": 0,
})
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory, shapes_root):
    """Return the records of the commands on every variant, by name."""
    folder = tmp_path_factory.mktemp("agreement")
    (experiment := folder / "atss.tiny").mkdir()
    source = ROOT / "playground/atss.res18.shapes"
    text = (source / "config.py").read_text()
    (experiment / "config.py").write_text(f"{text}\nconfig.override({TINY!r})\n{_DIFFERENCE}")
    (experiment / "net.py").write_text((source / "net.py").read_text())
    driver = Path(__file__).parent / "agreement_driver.py"
    words = [sys.executable, str(driver), str(experiment), str(folder / "runs")]
    env = {**command_environment(shapes_root), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return {record["name"]: record for record in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
def test_every_variant_was_run(records):
    assert len(VARIANTS) >= 60 and records.keys() == VARIANTS.keys()
    assert 5 < next(iter(records.values()))["base_ap"]  # equal numbers that say something


@pytest.mark.slow
def test_what_is_accepted_trains_and_evaluates(records):
    for name, record in records.items():
        if record["outcome"] in (SAME, USED):
            statuses = [record[k] for k in ("check", "train", "test")]
            assert statuses == [0, 0, 0], f"{name}: {json.dumps(record, indent=1)}"


@pytest.mark.slow
def test_other_class_names_train_and_are_not_confused(records):
    for name, record in records.items():
        if record["outcome"] == RENAMED:
            assert [record["check"], record["train"], record["test"]] == [0, 0, 1], name
            assert "trained with other class names" in record["test_said"], name


@pytest.mark.slow
def test_the_same_truth_has_the_same_ap(records):
    for name, record in records.items():
        if record["outcome"] == SAME:
            assert record["ap"] == pytest.approx(record["base_ap"], abs=1e-10), name


@pytest.mark.slow
def test_what_is_refused_is_refused_by_all_in_the_same_words(records):
    for name, record in records.items():
        if record["outcome"] not in (REFUSED, HOPELESS):
            continue
        assert record["check"] == record["train"] == 1, f"{name}: {json.dumps(record, indent=1)}"
        for kind in record["errors"]:
            assert kind in record["train_said"], f"{name}: {json.dumps(record, indent=1)}"
        if not set(record["errors"]) <= _OF_TRAINING:
            assert record["test"] == 1, f"{name}: {json.dumps(record, indent=1)}"


@pytest.mark.slow
def test_what_fix_writes_is_accepted(records):
    for name, record in records.items():
        if record["outcome"] == REFUSED:
            assert record["fixed"] == record["train_fixed"] == 0, (
                f"{name}: {json.dumps(record, indent=1)}"
            )


@pytest.mark.slow
def test_resume_draw_and_export_too(records):
    for name in THOROUGH:
        assert set(records[name]["also"].values()) == {0}, records[name]["also"]
