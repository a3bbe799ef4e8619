"""A resumed run obeys its config: each key of SOLVER, TRAINER and DATASETS is changed."""

from __future__ import annotations

import re

import pytest
import torch
from loguru import logger

from cvpods.configs import BaseConfig
from cvpods.configs.config_dict import leaves
from cvpods.engine.changes import GROUPS, ON_RESUME
from cvpods.solver import SCHEDULER_BUILDER
from cvpods.utils.errors import CheckpointError
from tests.load_script import ROOT
from tests.reliability import failing_runs as runs

KEYS = [key for key in leaves(BaseConfig()) if key.partition(".")[0] in GROUPS]
# Another value of each key; the run before has those of failing_runs.run().
OTHER = {
    "SOLVER.LR_SCHEDULER.NAME": "WarmupCosineLR",
    "SOLVER.LR_SCHEDULER.MAX_ITER": 9,
    "SOLVER.LR_SCHEDULER.MAX_EPOCH": 5,
    "SOLVER.LR_SCHEDULER.STEPS": (5,),
    "SOLVER.LR_SCHEDULER.GAMMA": 0.5,
    "SOLVER.LR_SCHEDULER.WARMUP_FACTOR": 0.5,
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 4,
    "SOLVER.LR_SCHEDULER.WARMUP_METHOD": "constant",
    "SOLVER.OPTIMIZER.NAME": "SGD",
    "SOLVER.OPTIMIZER.BASE_LR": 0.2,
    "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": 2.0,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY": 0.5,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY_NORM": 0.5,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY_BIAS": 0.5,
    "SOLVER.OPTIMIZER.MOMENTUM": 0.5,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "SOLVER.IMS_PER_BATCH": 6,
    "SOLVER.IMS_PER_DEVICE": 4,
    "SOLVER.BATCH_SUBDIVISIONS": 2,
    "SOLVER.AUTO_SCALE": "linear",
    "TRAINER.NAME": "NumbersRunner",
    "TRAINER.AMP.DTYPE": "fp16",
    "TRAINER.NONFINITE.POLICY": "skip",
    "DATASETS.CUSTOM_TYPE": ("RepeatDataset", {}),
    "DATASETS.TRAIN": ("others",),
    "DATASETS.TEST": ("numbers", "others"),
    "DATASETS.PROPOSAL_FILES_TRAIN": ("a",),
    "DATASETS.PROPOSAL_FILES_TEST": ("a",),
}
# Keys that are replaced by other ones when they are resolved: the key that the log names.
THROUGH = {
    "SOLVER.LR_SCHEDULER.MAX_EPOCH": "SOLVER.LR_SCHEDULER.MAX_ITER",
}


@pytest.fixture
def log():
    lines = []
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)


@pytest.fixture(scope="module")
def four_done(tmp_path_factory):
    """Make the folder of a run of 6 iterations that was stopped after 4."""
    folder = tmp_path_factory.mktemp("first")
    runs.run(folder)
    for name in ("model_final.pth", "model_iter_0000002.pth"):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text("model_iter_0000004.pth")
    return folder


@pytest.fixture
def stopped(four_done, tmp_path):
    """Copy the folder of that run."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in four_done.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def another(key):
    """Return a value of a key that differs from the one in failing_runs.run()."""
    if key in OTHER:
        return OTHER[key]
    default = leaves(BaseConfig())[key]
    if isinstance(default, int) and not isinstance(default, bool):
        return default + 1
    if key == "TRAINER.EMA.ENABLED":
        return False
    return not default if isinstance(default, bool) else default / 2 or 0.25


def test_the_table_has_every_key():
    """In code and in docs/reliability.md, with the same words."""
    assert sorted(ON_RESUME) == sorted(KEYS)
    rows = re.findall(
        r"^\| `([A-Z_.]+)` \| (.+?) \|$", (ROOT / "docs/reliability.md").read_text(), re.M
    )
    assert dict(rows) == ON_RESUME
    assert len(rows) == len(ON_RESUME)


@pytest.mark.parametrize("key", KEYS)
def test_a_changed_key_is_obeyed_and_logged(key, stopped, log):
    """The log names the key with both values; config.json is not alone in stating the new one."""
    value = another(key)
    changes = {key: value}
    if key == "SOLVER.LR_SCHEDULER.MAX_EPOCH":
        changes["SOLVER.LR_SCHEDULER.STEPS"] = (4,)
    if key in ("SOLVER.AUTO_SCALE", "SOLVER.BATCH_SUBDIVISIONS"):
        changes["SOLVER.IMS_PER_DEVICE"] = 4
    runner = runs.run(stopped, resume=True, **changes)
    said = THROUGH.get(key, key)
    lines = [line for line in log if line.startswith(f"{said}")]
    assert len(lines) == 1 and " in the checkpoint, now " in lines[0], log
    assert "Refused" not in lines[0] and len(lines[0].partition(", now ")[2]) < 200
    if key == "SOLVER.OPTIMIZER.BASE_LR":
        assert "[0.1] in the checkpoint, now [0.2]" in lines[0]
    assert runner.iter + 1 == runner.max_iter


@pytest.mark.parametrize(
    "changes, rates",
    [
        ({}, [0.1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ({"SOLVER.OPTIMIZER.BASE_LR": 0.2}, [0.2, 0.2, 0.2, 0.2, 0.02, 0.02]),
        ({"SOLVER.LR_SCHEDULER.STEPS": (5,)}, [0.1, 0.1, 0.1, 0.1, 0.1, 0.01]),
        ({"SOLVER.LR_SCHEDULER.GAMMA": 0.5}, [0.1, 0.1, 0.1, 0.1, 0.05, 0.05]),
        ({"SOLVER.LR_SCHEDULER.WARMUP_ITERS": 8, "SOLVER.LR_SCHEDULER.WARMUP_FACTOR": 0.0},
         [0, 0, 0, 0, 0.1 * 0.1 * 4 / 8, 0.1 * 0.1 * 5 / 8]),
    ],
)  # fmt: skip
def test_the_rate_of_the_new_schedule(changes, rates, stopped):
    """Iterations 4 and 5, after the step at 4 that multiplies by 0.1."""
    runner = runs.run(stopped, resume=True, **{"GLOBAL.LOG_INTERVAL": 1, **changes})
    found = runs.metrics(stopped)
    assert [found[i]["lr"] for i in (4, 5)] == pytest.approx(rates[4:])
    assert runner.optimizer.param_groups[0]["initial_lr"] == pytest.approx(rates[0] or 0.1)


def test_a_cosine_run_is_made_longer(tmp_path):
    """4 of 4 iterations, then 8: the rate at 4 is half of BASE_LR, not 0."""
    cosine = {"SOLVER.LR_SCHEDULER.NAME": "WarmupCosineLR", "GLOBAL.LOG_INTERVAL": 1}
    runs.run(tmp_path, **cosine, **{"SOLVER.LR_SCHEDULER.MAX_ITER": 4})
    runs.run(tmp_path, resume=True, **cosine, **{"SOLVER.LR_SCHEDULER.MAX_ITER": 8})
    assert runs.metrics(tmp_path)[4]["lr"] == pytest.approx(0.05)


def test_weight_decay_of_a_resumed_run(stopped):
    """One step with decay 0.5 and without: their weights differ by lr * 0.5 * weight."""
    change = {"SOLVER.LR_SCHEDULER.MAX_ITER": 5}
    before = torch.load(stopped / "model_iter_0000004.pth", weights_only=True)["model"]["weight"]
    runs.run(stopped, resume=True, **change)
    plain = torch.load(stopped / "model_final.pth", weights_only=True)["model"]["weight"]
    (stopped / "model_final.pth").unlink()
    runs.run(stopped, resume=True, **change, **{"SOLVER.OPTIMIZER.WEIGHT_DECAY": 0.5})
    decayed = torch.load(stopped / "model_final.pth", weights_only=True)["model"]["weight"]
    assert torch.allclose(plain - decayed, 0.01 * 0.5 * before, atol=1e-6)


def test_the_average_is_switched_on(tmp_path, log):
    """From the resumed weights: after one step half of both, with a decay of 0.5."""
    off = {"TRAINER.EMA.ENABLED": False, "SOLVER.LR_SCHEDULER.STEPS": ()}
    runs.run(tmp_path, **off, **{"SOLVER.LR_SCHEDULER.MAX_ITER": 4})
    before = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]["weight"]
    on = {"SOLVER.LR_SCHEDULER.MAX_ITER": 5, "SOLVER.LR_SCHEDULER.STEPS": ()}
    runs.run(tmp_path, resume=True, **on)
    after = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert torch.allclose(after["ema"]["weight"], (before + after["model"]["weight"]) / 2)
    assert any("TRAINER.EMA.ENABLED: False in the checkpoint, now True" in line for line in log)


@pytest.mark.parametrize("end", [4, 3])
@pytest.mark.parametrize("has_final", [False, True])
def test_fewer_iterations_than_are_done(end, has_final, stopped, log):
    """The log says so; model_final is written if it is missing, and evaluated."""
    if has_final:
        (stopped / "model_iter_0000004.pth").rename(stopped / "model_final.pth")
    stamp = has_final and (stopped / "model_final.pth").stat().st_mtime_ns
    changes = {"SOLVER.LR_SCHEDULER.MAX_ITER": end, "SOLVER.LR_SCHEDULER.STEPS": ()}
    runner = runs.run(stopped, resume=True, **changes)
    assert any(
        f"4 iterations are done already; SOLVER.LR_SCHEDULER.MAX_ITER is {end}" in line
        for line in log
    )
    assert torch.load(stopped / "model_final.pth", weights_only=True)["iteration"] == 3
    assert "y" in runner.results["mean"]
    if has_final:
        assert (stopped / "model_final.pth").stat().st_mtime_ns == stamp


def test_another_optimiser_is_refused(stopped):
    with pytest.raises(CheckpointError, match="another SOLVER.OPTIMIZER.NAME.*start a new run"):
        runs.run(stopped, resume=True, **{"SOLVER.OPTIMIZER.NAME": "AdamW"})


def test_a_schedule_of_ones_own(tmp_path):
    """It continues unchanged; a changed key is refused, and the error names two ways out."""

    def build(cfg, optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            cfg.SOLVER.OPTIMIZER.BASE_LR,
            total_steps=cfg.SOLVER.LR_SCHEDULER.MAX_ITER + 1,
        )

    SCHEDULER_BUILDER.register(build, name="OneCycle")
    mine = {"SOLVER.LR_SCHEDULER.NAME": "OneCycle"}
    try:
        reference = tmp_path / "reference"
        runs.run(reference, **mine)
        output = tmp_path / "output"
        with runs.failing(runs.Users, "after_step", runs.at(3)), pytest.raises(ValueError):
            runs.run(output, **mine)
        for changed in ({"SOLVER.LR_SCHEDULER.MAX_ITER": 9}, {"SOLVER.OPTIMIZER.BASE_LR": 0.3}):
            with pytest.raises(CheckpointError) as caught:
                runs.run(output, resume=True, **mine, **changed)
            said = str(caught.value)
            assert "Either resume with the values of the checkpoint, or start a new run" in said
            assert next(iter(changed)) in said
        runs.run(output, resume=True, **mine)
        runs.same_end(output, reference)
    finally:
        del SCHEDULER_BUILDER._objects["OneCycle"]


def test_a_shorter_training_set_is_named(stopped, log, monkeypatch):
    build = runs.Loader.__init__

    def shorter(self, plan):
        build(self, plan)
        self.dataset = type("Data", (), {"dataset": self.dataset.dataset, "__len__": lambda s: 5})()

    monkeypatch.setattr(runs.Loader, "__init__", shorter)
    runs.run(stopped, resume=True)
    assert any("had 8 images and has 5 now" in line for line in log)


def test_a_cosine_schedule_names_its_end_once(tmp_path, log):
    """Its own state has MAX_ITER, so that it logs the change."""
    cosine = {"SOLVER.LR_SCHEDULER.NAME": "WarmupCosineLR"}
    runs.run(tmp_path, **cosine)
    runs.run(tmp_path, resume=True, **cosine, **{"SOLVER.LR_SCHEDULER.MAX_ITER": 8})
    assert len([line for line in log if line.startswith("SOLVER.LR_SCHEDULER.MAX_ITER")]) == 1


@pytest.mark.parametrize("value, said", [(True, "starts from"), (False, "is dropped")])
def test_the_average_is_switched(value, said, tmp_path, log):
    runs.run(tmp_path, **{"TRAINER.EMA.ENABLED": not value})
    more = {"SOLVER.LR_SCHEDULER.MAX_ITER": 8, "TRAINER.EMA.ENABLED": value}
    runs.run(tmp_path, resume=True, **more)
    (line,) = [line for line in log if line.startswith("TRAINER.EMA.ENABLED:")]
    assert f"The average {said}" in line and ("is dropped" in line) is not value


def test_another_batch_with_linear_scaling(stopped, log):
    """A batch of 4, 2 images per device: 3 iterations of 8 instead of 6 of 4; 4 are done."""
    changes = {"SOLVER.AUTO_SCALE": "linear", "SOLVER.IMS_PER_DEVICE": 8}
    runs.run(stopped, resume=True, **changes, **{"SOLVER.LR_SCHEDULER.STEPS": (2,)})
    (line,) = [line for line in log if line.startswith("SOLVER.AUTO_SCALE 'linear' gives")]
    assert "gives 3 iterations with 8 images" in line and "had 6 with 4, and 4 of them" in line
    assert "SOLVER.AUTO_SCALE '' SOLVER.LR_SCHEDULER.MAX_ITER 6" in line
