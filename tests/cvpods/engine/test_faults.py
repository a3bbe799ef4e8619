"""Bad numbers, too little memory and damaged images, by hand, with a model of one number."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from cvpods.data.samplers import BatchPlan
from cvpods.engine.memory import OutOfMemory, describe_batch
from cvpods.engine.nonfinite import TooManySkippedSteps
from cvpods.engine.run_files import set_aside
from cvpods.engine.status import CorruptImages, TooManyCorruptImages
from cvpods.structures import Boxes, Instances
from cvpods.utils.errors import CheckpointError, DataError, PodsError
from cvpods.utils.stop import Stopped, remembering_stop_signals, stop_signal
from tests.cvpods.engine.test_runner import Line, LineRunner, Loader, make_config


def runner_of(tmp_path, batches, model=None, **config):
    """Return a runner over `batches`, two of two images per step; MAX_ITER is their number."""
    cfg = make_config(tmp_path)
    cfg.SOLVER.LR_SCHEDULER.MAX_ITER = len(batches) // 2
    cfg.merge(config)
    runner = LineRunner(cfg, lambda cfg: model or Line())
    runner.data_loader = Loader(batches)
    return runner


# -- bad numbers -----------------------------------------------------------------------------------

NAN = [[1, math.nan], [1, 1]]
GOOD = [[1, 2], [3, 4]]  # moves w by -.1 * 2.5


def test_skipping_leaves_the_step_out(tmp_path):
    """Good, NaN, good: w = 2 - .25 - .25 = 1.5; one dump, which loads `weights_only`."""
    policy = {"TRAINER": {"NONFINITE": {"POLICY": "skip", "MAX_SKIPPED": 1}}}
    runner = runner_of(tmp_path, [*GOOD, *NAN, *GOOD], **policy)
    runner.train()
    assert runner.bare_model.w.item() == pytest.approx(1.5)
    (dump,) = tmp_path.glob("nonfinite_*.pt")
    assert dump.name == "nonfinite_0000001.pt"
    content = torch.load(dump, weights_only=True)
    assert content["model"]["w"].item() == pytest.approx(1.75)
    assert content["weights_norm"] == pytest.approx(1.75) and content["cause"] == "divergence"
    assert math.isnan(content["losses"]["loss_line"]) and math.isnan(content["batches"][0][1])


def test_too_many_in_a_row_stop(tmp_path):
    """One may be skipped: good, NaN, good, NaN, NaN stops at the second in a row."""
    policy = {"TRAINER": {"NONFINITE": {"POLICY": "skip", "MAX_SKIPPED": 1}}}
    runner = runner_of(tmp_path, [*GOOD, *NAN, *GOOD, *NAN, *NAN], **policy)
    with pytest.raises(FloatingPointError, match="iteration 4.*2 steps in a row"):
        runner.train()
    assert runner.bare_model.w.item() == pytest.approx(1.5)
    names = sorted(path.name for path in tmp_path.glob("nonfinite_*.pt"))
    assert names == ["nonfinite_0000001.pt", "nonfinite_0000003.pt"]  # the first of each row


def skipping(share, in_a_row=10):
    return {
        "TRAINER": {
            "NONFINITE": {
                "POLICY": "skip", "MAX_SKIPPED": in_a_row, "MAX_SKIPPED_SHARE": share,
            }
        }
    }  # fmt: skip


@pytest.mark.parametrize(
    "steps, share, ends_after",
    [
        ("gNNNNN", 0.1, 6),  # five of six: at the end of the run, model_final is there
        ("gNgNgg", 0.1, 6),  # two of six are more than 10 %
        ("gNgggg", 0.1, None),  # one is never the end
        ("gNgNgg", 0.4, None),  # two of six are not more than 40 %
        ("g" * 17 + "NNN" + "g" * 20, 0.1, 20),  # three of 20
        ("NNN" + "g" * 27, 0.1, 20),  # earlier ones count once 20 steps are done
        ("g" * 18 + "NN" + "g" * 9 + "N" + "g" * 10, 0.1, None),  # 2 of 20, 3 of 30
        ("g" * 18 + "NN" + "g" * 8 + "N" + "g" * 10, 0.1, 29),  # 3 of 29
    ],
)
def test_a_share_of_skipped_steps_ends_the_run(steps, share, ends_after, tmp_path):
    """Saved: the checkpoint has all steps that were made."""
    batches = [batch for step in steps for batch in (GOOD if step == "g" else NAN)]
    runner = runner_of(tmp_path, batches, SOLVER={"CHECKPOINT_PERIOD": 0}, **skipping(share))
    if ends_after is None:
        runner.train()
        return
    with pytest.raises(TooManySkippedSteps, match="MAX_SKIPPED_SHARE") as caught:
        runner.train()
    skipped = steps[:ends_after].count("N")
    assert f"{skipped} of {ends_after} steps were skipped" in str(caught.value)
    (path,) = tmp_path.glob("model_*.pth")
    content = torch.load(path, weights_only=True)
    assert content["iteration"] == ends_after - 1
    assert content["nonfinite"]["skipped"] == skipped
    assert path.name == ("model_final.pth" if ends_after == len(steps) else
                         f"model_iter_{ends_after:07d}.pth")  # fmt: skip


def test_skipped_steps_of_the_run_before_count(tmp_path):
    """2 of 10, resumed, 1 of 9 more, and the run ends at 20 with 3 of 20."""
    kinds = "NN" + "g" * 8 + "N" + "g" * 20
    batches = [batch for step in kinds for batch in (GOOD if step == "g" else NAN)]
    first = runner_of(tmp_path, batches[:20], SOLVER={"CHECKPOINT_PERIOD": 0}, **skipping(0.25))
    first.train()
    second = runner_of(tmp_path, batches, SOLVER={"CHECKPOINT_PERIOD": 0}, **skipping(0.1))
    second.data_loader = Loader(batches[20:])
    second.resume_or_load(resume=True)
    with pytest.raises(TooManySkippedSteps, match="3 of 20 steps"):
        second.train()


def test_a_loss_that_stops_the_run_saves_first(tmp_path):
    """Good, good, NaN: the two good steps are saved, and the third is made again."""
    runner = runner_of(tmp_path, [*GOOD, *GOOD, *NAN], SOLVER={"CHECKPOINT_PERIOD": 0})
    with pytest.raises(FloatingPointError):
        runner.train()
    content = torch.load(tmp_path / "model_iter_0000002.pth", weights_only=True)
    assert content["iteration"] == 1 and content["model"]["w"].item() == pytest.approx(1.5)
    assert all(at < 2 for _, at in content["scalars"]["total_loss"])


class Root(nn.Module):
    """loss = sqrt(w) * 0 + w at w = 0: finite, with an infinite gradient."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.0))

    def forward(self, batch):
        return {"loss_root": self.w.sqrt()}


def test_gradients_that_are_not_finite(tmp_path):
    runner = runner_of(tmp_path, GOOD, Root())
    with pytest.raises(FloatingPointError, match="The losses are finite, their gradients are not"):
        runner.train()
    assert runner.bare_model.w.item() == 0.0


class Normed(nn.Module):
    """A batch norm over the batch, then w."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.w = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch):
        x = torch.tensor([[float(v)] for v in batch])
        return {"loss_normed": (self.norm(x) * self.w).sum()}


def test_running_statistics_stay_clean(tmp_path):
    policy = {"TRAINER": {"NONFINITE": {"POLICY": "skip", "MAX_SKIPPED": 1}}}
    runner = runner_of(tmp_path, NAN, Normed(), **policy)
    before = {k: v.clone() for k, v in runner.bare_model.state_dict().items()}
    runner.train()
    after = runner.bare_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


class Overflows(nn.Module):
    """w * 70000: infinite in float16, finite in float32."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0]]))

    def forward(self, batch):
        return {"loss_big": (torch.full((1, 1), 70000.0) @ self.w).float().sum()}


def test_overflow_is_told_apart(tmp_path):
    fp16 = {"TRAINER": {"AMP": {"ENABLED": True, "DTYPE": "fp16"}}}
    runner = runner_of(tmp_path, GOOD, Overflows(), **fp16)
    with pytest.raises(FloatingPointError, match="an overflow of fp16, not divergence"):
        runner.train()
    assert runner.bare_model.w.item() == 1.0
    (dump,) = tmp_path.glob("nonfinite_*.pt")
    assert torch.load(dump, weights_only=True)["cause"] == "overflow"


# -- memory ----------------------------------------------------------------------------------------


class Hungry(Line):
    """Has memory for `room` images at once."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def forward(self, batch):
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return super().forward([sample["x"] for sample in batch])


def sample(x):
    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    boxes = Instances((40, 50), gt_boxes=Boxes(torch.ones(3, 4)), gt_classes=torch.zeros(3).long())
    return {"x": x, "image": image, "instances": boxes}


def samples(*xs):
    return [sample(x) for x in xs]


class Stream(LineRunner):
    """A loader that can be built again for smaller passes."""

    @classmethod
    def build_train_loader(cls, cfg, plan, *args, **kwargs):
        xs = iter([1, 2, 3, 4] * 3)
        sizes = plan.shares[0]
        count = 2 if len(sizes) <= 2 else 1  # after the first step, one step is left
        return Loader([samples(*(next(xs) for _ in range(n))) for _ in range(count) for n in sizes])


def test_out_of_memory_names_the_batch_and_what_to_try(tmp_path):
    runner = runner_of(tmp_path, [samples(1, 2), samples(3, 4)], Hungry(1))
    with pytest.raises(OutOfMemory) as caught:
        runner.train()
    said = str(caught.value)
    for part in (
        "iteration 0", "2 images at once (40 x 50, 40 x 50)", "padded to 64 x 64",
        "6 boxes (3 in one image)", "(1) --auto-batch", "SOLVER.IMS_PER_DEVICE 1",
        "(2) TRAINER.AMP.ENABLED True", "(3) smaller images",
    ):  # fmt: skip
        assert part in said, said
    assert isinstance(caught.value, PodsError) and runner.bare_model.w.item() == 2.0


def test_auto_batch_halves_and_accumulates(tmp_path):
    """Two steps of mean(1, 2, 3, 4) = 2.5 in passes of 1: w = 2 - .25 - .25, as in passes of 2."""
    cfg = make_config(tmp_path)
    cfg.SOLVER.LR_SCHEDULER.MAX_ITER = 2
    cfg.SOLVER.AUTO_BATCH = True
    runner = Stream(cfg, lambda cfg: Hungry(1))
    runner.train()
    assert runner.bare_model.w.item() == pytest.approx(1.5)
    assert runner.plan == BatchPlan.make(4, 1, 1)
    assert json.loads((tmp_path / "auto_batch.json").read_text()) == {"images_at_once": 1}
    # A resumed run starts with that number.
    assert Stream(cfg, lambda cfg: Hungry(1)).plan.steps == 4


def test_auto_batch_ends_at_one_image(tmp_path):
    cfg = make_config(tmp_path)
    cfg.SOLVER.AUTO_BATCH = True
    with pytest.raises(OutOfMemory, match="1 images at once.*more GPUs"):
        Stream(cfg, lambda cfg: Hungry(0)).train()


def test_out_of_memory_later_saves_first(tmp_path):
    """The second step does not fit: the first is saved."""

    class Later(Hungry):
        def forward(self, batch):
            self.room = 0 if self.w.item() < 2 else 2
            return super().forward(batch)

    cfg = make_config(tmp_path, CHECKPOINT_PERIOD=0)
    cfg.SOLVER.LR_SCHEDULER.MAX_ITER = 2
    with pytest.raises(OutOfMemory):
        Stream(cfg, lambda cfg: Later(2)).train()
    content = torch.load(tmp_path / "model_iter_0000001.pth", weights_only=True)
    assert content["iteration"] == 0 and content["model"]["w"].item() == pytest.approx(1.75)


@pytest.mark.parametrize(
    "error, advice",
    [
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed."), "NUM_WORKERS 1"),
        (MemoryError("Caught MemoryError in DataLoader worker process 0."), "--shm-size"),
    ],
)
def test_a_worker_without_memory(tmp_path, error, advice):
    class Broken(Loader):
        def __iter__(self):
            raise error
            yield

    runner = runner_of(tmp_path, GOOD)
    runner.data_loader = Broken([])
    with pytest.raises(OutOfMemory, match=advice):
        runner.train()


def test_describe_batch_without_boxes():
    images = [{"image": torch.zeros(3, 33, 64)}, {"image": torch.zeros(3, 10, 65)}]
    assert describe_batch(images) == "2 images at once (33 x 64, 10 x 65), padded to 64 x 96"


# -- damaged images --------------------------------------------------------------------------------


def test_corrupt_images_are_counted_once():
    """With 1,000 images, 1 % of which may be corrupt, the 11th corrupt one ends the run."""
    corrupt = CorruptImages(1000, 0.01)
    corrupt.note([[{"unusable": {"a.jpg": "bad"}}, {}], [{"unusable": {"a.jpg": "bad"}}]])
    found = corrupt.take_new()
    assert found == {"a.jpg": "bad"} and corrupt.take_new() == {}
    corrupt.add([found, {"a.jpg": "bad"}, {"b.jpg": "bad"}])
    assert len(corrupt.files) == 2
    corrupt.add([{f"{i}.jpg": "bad" for i in range(8)}])
    with pytest.raises(TooManyCorruptImages, match="11 of 1,000 .*MAX_CORRUPT_SHARE 0.01"):
        corrupt.add([{"last.jpg": "bad"}])


def test_one_corrupt_image_never_ends_a_run():
    CorruptImages(4, 0.0).add([{"a.jpg": "bad"}])
    with pytest.raises(TooManyCorruptImages):
        CorruptImages(4, 0.25).add([{"a.jpg": "bad", "b.jpg": "bad"}])


# -- signals and files -----------------------------------------------------------------------------


def test_a_signal_is_remembered():
    before = signal.getsignal(signal.SIGTERM)
    with remembering_stop_signals():
        assert stop_signal() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_signal() == signal.SIGTERM
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGINT)  # the second ends it at once
    assert signal.getsignal(signal.SIGTERM) is before and stop_signal() is None


@pytest.fixture
def default_hangup():
    """Handle SIGHUP like a program that was not started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closed_terminal_may_say_so_twice(signum, default_hangup):
    """SIGHUP from the kernel and from the shell; SIGTERM, which may follow, is a first one."""
    with remembering_stop_signals():
        for _ in range(3):
            os.kill(os.getpid(), signum)
        assert stop_signal() == signum
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_signal() == signal.SIGTERM
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)


def test_what_is_ignored_at_the_start_stays_ignored(default_hangup):
    """nohup ignores SIGHUP for the command that it starts."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with remembering_stop_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop_signal() is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_without_these_signals():
    """Windows has no SIGHUP and no SIGUSR1; the module can be imported all the same."""
    code = (
        "import signal; del signal.SIGHUP, signal.SIGUSR1;"
        "from cvpods.utils.stop import STOP_SIGNALS, remembering_stop_signals\n"
        "with remembering_stop_signals(): print(len(STOP_SIGNALS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr


def test_a_signal_saves_and_stops(tmp_path):
    class Signalled(Line):
        def forward(self, batch):
            os.kill(os.getpid(), signal.SIGTERM) if stop_signal() is None else None
            return super().forward(batch)

    runner = runner_of(tmp_path, GOOD * 3, Signalled(), SOLVER={"CHECKPOINT_PERIOD": 0})
    with pytest.raises(Stopped) as caught:
        runner.train()
    assert caught.value.status == 143
    assert torch.load(tmp_path / "model_iter_0000001.pth", weights_only=True)["iteration"] == 0


def test_an_earlier_run_is_moved_aside(tmp_path):
    for name in ("model_iter_0000002.pth", "last_checkpoint", "metrics.json", "notes.txt"):
        (tmp_path / name).write_text(name)
    set_aside(tmp_path)
    (tmp_path / "model_final.pth").write_text("second")
    set_aside(tmp_path)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == [
        "earlier_1/last_checkpoint", "earlier_1/metrics.json", "earlier_1/model_iter_0000002.pth",
        "earlier_2/model_final.pth", "notes.txt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "metrics.json", "config.json", "auto_batch.json", "events.out.tfevents.1.host.2",
        "nonfinite_0000003.pt", "inference/results.json", "inference_TTA/shapes_val/results.md",
    ],
)  # fmt: skip
def test_a_run_without_a_checkpoint_is_moved_aside(name, tmp_path):
    """All that it left is moved, results too; the log and other folders stay."""
    for path in (tmp_path / name, tmp_path / "log.txt", tmp_path / "demo/picture.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first")
    set_aside(tmp_path)
    set_aside(tmp_path)  # nothing is left to move
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == sorted(["demo/picture.png", f"earlier_1/{name}", "log.txt"])


def test_metrics_of_repeated_iterations_give_way(tmp_path):
    """Lines 0 .. 3 and half a line; the run resumes from 2: 0 and 1 stay, 2 is new."""
    path = tmp_path / "metrics.json"
    path.write_text("".join(f'{{"iteration": {i}, "lr": 1.0}}\n' for i in range(4)) + '{"iter')
    from cvpods.engine.writers import JSONWriter
    from cvpods.utils.events import EventStorage

    writer = JSONWriter(path)
    with EventStorage(2) as storage:
        storage.put_scalar("lr", 0.5)
        assert writer.has_written(1) and not writer.has_written(9)
        writer.write()
    writer.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["iteration"], r["lr"]) for r in records] == [(0, 1.0), (1, 1.0), (2, 0.5)]


def test_gradients_whose_norm_overflows_are_finite(tmp_path):
    """1e30 is finite in float32, and its square is not; clipped to 1, w = 2 - .1."""
    clip = {"ENABLED": True, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0}
    runner = runner_of(tmp_path, [[1e30, 1e30], [1e30, 1e30]], SOLVER={"CLIP_GRADIENTS": clip})
    runner.train()
    assert runner.bare_model.w.item() == pytest.approx(1.9)


def test_images_that_vanish_save_first(tmp_path):
    class Vanishes(Loader):
        def __iter__(self):
            yield from GOOD
            raise DataError("11 images in a row cannot be used: a.jpg")

    runner = runner_of(tmp_path, GOOD * 2, SOLVER={"CHECKPOINT_PERIOD": 0})
    runner.data_loader = Vanishes([])
    with pytest.raises(DataError):
        runner.train()
    assert torch.load(tmp_path / "model_iter_0000001.pth", weights_only=True)["iteration"] == 0


def test_another_optimiser_is_refused(tmp_path):
    """AdamW's state for SGD, which needs a momentum, and the other way round."""
    for first, then in (("AdamW", "D2SGD"), ("D2SGD", "AdamW")):
        cfg = make_config(tmp_path / first, CHECKPOINT_PERIOD=0, OPTIMIZER={"NAME": first})
        LineRunner(cfg, lambda cfg: Line()).train()
        cfg = make_config(tmp_path / first, CHECKPOINT_PERIOD=0, OPTIMIZER={"NAME": then})
        with pytest.raises(CheckpointError, match="another SOLVER.OPTIMIZER.NAME"):
            LineRunner(cfg, lambda cfg: Line()).resume_or_load(resume=True)


def test_fp16_gradients_that_never_fit(tmp_path):
    """Infinite gradients at a loss scale of 1 are not an overflow: the run dumps them and stops."""
    fp16 = {"TRAINER": {"AMP": {"ENABLED": True, "DTYPE": "fp16"}}}
    runner = runner_of(tmp_path, GOOD * 40, Root(), **fp16)
    with pytest.raises(FloatingPointError, match="gradient became infinite.*pods_debug replay"):
        runner.train()
    assert runner.iter == 16  # 65536 = 2 ** 16 is halved 16 times first
    assert runner.bare_model.w.item() == 0.0
