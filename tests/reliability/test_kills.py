"""A run that is killed at a random moment and resumed ends as if nothing had happened.

CVPODS_TRIALS=100 tries as often as docs/reliability.md reports; by default it is a sample.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import command_environment, wrap_net
from tests.load_script import ROOT

TRIALS = int(os.environ.get("CVPODS_TRIALS", 9))
# With it, the sample has loaders' workers by each start method, by the slow ones once.
SEED = "10"

# What is easily lost: dropout's random numbers, running statistics, an average, a window of losses.
_DIFFERENCE = """
config.override({
    "SOLVER.LR_SCHEDULER.MAX_ITER": 8, "SOLVER.CHECKPOINT_PERIOD": 2, "TEST.EVAL_PERIOD": 3,
    "TRAINER.EMA.ENABLED": True, "MODEL.RESNETS.NORM": "BN", "TRAINER.WINDOW_SIZE": 5,
})
"""
_NET = """
from torch import nn
from net_of_experiment import build_model as build


def build_model(cfg):
    model = build(cfg)
    model.head.cls_subnet.append(nn.Dropout(0.2))
    return model
"""


@pytest.fixture
def run_of_eight(experiment: Path) -> Path:
    """Write an experiment of 8 iterations that saves every 2 and evaluates every 3."""
    config = experiment / "config.py"
    config.write_text(config.read_text() + _DIFFERENCE)
    wrap_net(experiment, _NET)
    return experiment


@pytest.mark.slow
def test_killed_runs_end_as_if_nothing_had_happened(run_of_eight, tmp_path, shapes_root, capsys):
    """Weights, averaged weights and the losses of every iteration agree bit for bit."""
    driver = Path(__file__).parent / "kill_driver.py"
    words = [
        sys.executable,
        str(driver),
        str(run_of_eight),
        str(tmp_path / "runs"),
        str(TRIALS),
        SEED,
    ]
    env = {**command_environment(shapes_root), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60 * TRIALS + 120)
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == TRIALS
    # 0: it was done before. A signal that comes before training begins ends it in the usual way.
    allowed = {
        "SIGKILL": {-9, 0},
        "truncate": {-9, 0},
        "inside a write": {-9},
        "SIGTERM": {143, -15, 0},
        "SIGINT": {130, 0},
        "SIGHUP": {129, -1, 0},
        "SIGUSR1": {138, -10, 0},
        "nohup": {0},
        "full": {1, 0},
    }
    for record in records:
        assert record["status"] in allowed[record["kind"]], record
        assert record["resumed"] == 0, record
        assert record["weights"] and record["losses"], record
        assert not record["leftovers"] and not record["traceback"], record
    counts = Counter((record["kind"], record["status"]) for record in records)
    with capsys.disabled():
        print(f"\n{len(records)} killed runs resumed, all equal: {dict(counts)}")
