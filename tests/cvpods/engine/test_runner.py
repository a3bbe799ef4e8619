"""The training loop with a model of one number, so that every step can be worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from cvpods.configs import BaseDetectionConfig
from cvpods.data.samplers import BatchPlan, TrainingBatchSampler, TrainingStream
from cvpods.engine import DefaultRunner, HookBase, RunnerBase
from cvpods.engine import hooks as hooks_module
from cvpods.utils.errors import ConfigError
from cvpods.utils.events import EventStorage, get_event_storage


class Line(nn.Module):
    """loss = mean over the batch of w * x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch):
        return {"loss_line": self.w * torch.tensor([float(x) for x in batch]).mean()}


class Loader(list):
    """Batches; stands for a DataLoader."""

    def __init__(self, batches):
        super().__init__(batches)
        stream = TrainingStream([0] * 4, 2, 0)
        self.batch_sampler = TrainingBatchSampler(stream, BatchPlan.make(4, 2, 1))
        inner = type("Inner", (), {"meta": {}})()
        self.dataset = type("Data", (), {"dataset": inner, "__len__": lambda s: 4})()


class LineRunner(DefaultRunner):
    batches = [[1, 2], [3, 4]] * 10

    @classmethod
    def build_train_loader(cls, cfg, *args, **kwargs):
        return Loader(cls.batches)

    def build_writers(self):
        return []


def make_config(tmp_path, **solver):
    cfg = BaseDetectionConfig()
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.SEED = 0
    cfg.SOLVER.LR_SCHEDULER.update(MAX_ITER=1, STEPS=(), WARMUP_ITERS=0)
    cfg.SOLVER.OPTIMIZER.update(BASE_LR=0.1, WEIGHT_DECAY=0.0, MOMENTUM=0.0)
    cfg.SOLVER.update(IMS_PER_BATCH=4, IMS_PER_DEVICE=2, CHECKPOINT_PERIOD=-1)
    cfg.merge({"SOLVER": solver})
    return cfg


def test_accumulation_by_hand(tmp_path):
    """Two passes of two images: gradient = mean(1, 2, 3, 4) = 2.5; w = 2 - .1 * 2.5 = 1.75."""
    runner = LineRunner(make_config(tmp_path), lambda cfg: Line())
    runner.train()
    assert runner.plan.steps == 2
    assert runner.bare_model.w.item() == pytest.approx(1.75)


def test_uneven_passes_weigh_every_image_alike(tmp_path):
    """3 images in passes of 2 and 1: gradient = mean(1, 2, 9) = 4; w = 2 - .4 = 1.6."""
    runner = LineRunner(make_config(tmp_path, IMS_PER_BATCH=3), lambda cfg: Line())
    runner.data_loader = Loader([[1, 2], [9]])
    runner.train()
    assert runner.plan == BatchPlan(3, ((2, 1),))
    assert runner.bare_model.w.item() == pytest.approx(1.6)


def test_losses_are_those_of_the_whole_batch(tmp_path):
    """loss = 2 * mean(1, 2, 3, 4) = 5."""
    runner = LineRunner(make_config(tmp_path), lambda cfg: Line())
    runner.train()
    assert runner.storage.history("total_loss").latest() == pytest.approx(5.0)
    assert runner.storage.history("loss_line").latest() == pytest.approx(5.0)


def test_non_finite_loss_stops_before_the_step(tmp_path):
    runner = LineRunner(make_config(tmp_path), lambda cfg: Line())
    runner.data_loader = Loader([[1, math.nan], [1, 1]])
    with pytest.raises(FloatingPointError, match="iteration 0: {'loss_line': nan}"):
        runner.train()
    assert runner.bare_model.w.item() == 2.0


def test_a_model_in_evaluation_mode_is_refused(tmp_path):
    runner = LineRunner(make_config(tmp_path), lambda cfg: Line())
    runner.model.eval()
    with pytest.raises(RuntimeError, match=r"must be in training mode.*Call train\(\) again"):
        runner.train()
    assert runner.bare_model.w.item() == 2.0


def test_a_run_is_not_saved_while_its_state_changes(tmp_path):
    """A hook with part_of_step runs before the state is complete."""
    runner = LineRunner(make_config(tmp_path), lambda cfg: Line())

    class Early(HookBase):
        part_of_step = True

        def after_step(self):
            runner.save("early")

    runner.register_hooks([Early()])
    with pytest.raises(RuntimeError, match="cannot be saved while its state changes"):
        runner.train()
    assert not (tmp_path / "early.pth").exists()


def test_callbacks_of_a_hook():
    """Each function replaces the method of its name and gets the runner."""
    calls = []

    class Runner(RunnerBase):
        def run_step(self):
            pass

    runner = Runner()
    hook = hooks_module.CallbackHook(
        before_step=lambda runner: calls.append(runner.iter),
        after_train=lambda runner: calls.append(runner),
    )
    runner.register_hooks([hook])
    runner.train(0, 2)
    assert calls == [0, 1, runner]


def test_clipping_by_value(tmp_path):
    """Gradient 2.5 clipped to 1: w = 1.9."""
    cfg = make_config(tmp_path, CLIP_GRADIENTS={"ENABLED": True, "CLIP_VALUE": 1.0})
    runner = LineRunner(cfg, lambda cfg: Line())
    runner.train()
    assert runner.bare_model.w.item() == pytest.approx(1.9)


def test_ema_by_hand(tmp_path):
    """w: 2 -> 1.75 -> 1.5. The average starts as w, so: 1.75, then .9 * 1.75 + .1 * 1.5 = 1.725."""
    cfg = make_config(tmp_path)
    cfg.SOLVER.LR_SCHEDULER.MAX_ITER = 2
    cfg.TRAINER.EMA.update(ENABLED=True, DECAY=0.9)
    runner = LineRunner(cfg, lambda cfg: Line())
    runner.train()
    assert runner.ema.module.w.item() == pytest.approx(1.725)


def test_resume_without_checkpoint_starts_a_new_run(tmp_path):
    runner = LineRunner(make_config(tmp_path), lambda cfg: Line())
    runner.resume_or_load(resume=True)
    assert runner.start_iter == 0


def test_resume_continues(tmp_path):
    cfg = make_config(tmp_path, CHECKPOINT_PERIOD=1)
    runner = LineRunner(cfg, lambda cfg: Line())
    runner.train()
    again = make_config(tmp_path, CHECKPOINT_PERIOD=1)
    again.SOLVER.LR_SCHEDULER.MAX_ITER = 3
    runner = LineRunner(again, lambda cfg: Line())
    runner.resume_or_load(resume=True)
    assert runner.start_iter == 1 and runner.bare_model.w.item() == pytest.approx(1.75)
    runner.train()
    assert runner.bare_model.w.item() == pytest.approx(1.25)
    runner.resume_or_load(resume=True)
    assert runner.train() == {}  # nothing is left to do


def test_no_data_set_to_test_on(tmp_path):
    with pytest.raises(ConfigError, match="DATASETS.TEST"):
        LineRunner.test(make_config(tmp_path), Line())


def test_hooks_run_in_order_and_close_after_an_error():
    calls = []

    class Recorder(HookBase):
        def before_train(self):
            calls.append("before_train")

        def before_step(self):
            calls.append(f"before {self.trainer.iter}")

        def after_step(self):
            calls.append(f"after {self.trainer.iter}")

        def after_train(self):
            calls.append("after_train")

    class Runner(RunnerBase):
        def run_step(self):
            if self.iter == 6:
                raise RuntimeError("boom")

    runner = Runner()
    runner.register_hooks([Recorder(), None])
    with pytest.raises(RuntimeError, match="boom"):
        runner.train(5, 8)
    assert calls == ["before_train", "before 5", "after 5", "before 6", "after_train"]


@pytest.mark.parametrize(
    "period, expected", [(2, ["iter_0000002", "final"]), (0, ["final"]), (-1, [])]
)
def test_checkpoint_periods(period, expected):
    saved = []

    class Runner(RunnerBase):
        def run_step(self):
            pass

    runner = Runner()
    runner.register_hooks([hooks_module.PeriodicCheckpointer(saved.append, period)])
    runner.train(0, 3)
    assert saved == [f"model_{name}" for name in expected]


@pytest.mark.parametrize("period, expected", [(2, [1, 3, 4]), (0, [4]), (-1, [])])
def test_evaluation_periods(period, expected):
    done = []

    class Runner(RunnerBase):
        def run_step(self):
            pass

    runner = Runner()

    def evaluate():
        done.append(runner.iter)
        return {"bbox": {"AP": 1.0}}

    runner.register_hooks([hooks_module.EvalHook(period, evaluate)])
    runner.train(0, 5)
    assert done == expected
    if expected:
        assert runner.storage.latest()["bbox/AP"] == (1.0, 4)


def test_event_storage():
    """Median of 1, 5, 3 is 3; of the last two, 4; mean 3."""
    with pytest.raises(AssertionError, match="EventStorage"):
        get_event_storage()
    with EventStorage(7) as storage:
        assert get_event_storage() is storage
        for value in (1, 5, 3):
            storage.put_scalar("loss", value)
            storage.step()
    history = storage.history("loss")
    assert history.median(20) == 3 and history.median(2) == 4 and history.global_avg() == 3
    assert storage.latest() == {"loss": (3.0, 9)}
    with pytest.raises(KeyError, match="No scalar named 'lr'"):
        storage.history("lr")


def test_metrics_json_has_no_nan(tmp_path):
    from cvpods.engine.writers import JSONWriter

    writer = JSONWriter(tmp_path / "metrics.json")
    with EventStorage(0) as storage:
        storage.put_scalars(total_loss=1.0, ap=math.nan)
        writer.write()
    writer.close()
    record = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert record == {"iteration": 0, "total_loss": 1.0, "ap": None}
