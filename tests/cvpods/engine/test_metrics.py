"""Scalars recorded at some iterations only, in metrics.json, TensorBoard and the log."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch
from loguru import logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvpods.engine import HookBase, RunnerBase
from cvpods.engine import hooks as hooks_module
from cvpods.engine.writers import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from cvpods.utils.errors import DataError
from cvpods.utils.events import EventStorage


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def points_of(folder, name):
    """Return the (iteration, value) of a curve, as TensorBoard shows it."""
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_mismatched_periods(tmp_path):
    """key2 at 0, 17, 34, 51, key at every iteration, written after 20, 40 and 60.

    Each write has the latest value of each scalar at its own iteration: 17 and 19, ...
    """
    writer = JSONWriter(tmp_path / "metrics.json")
    with EventStorage() as storage:
        for k in range(60):
            if k % 17 == 0:
                storage.put_scalar("key2", k, smoothing_hint=False)
            storage.put_scalar("key", k, smoothing_hint=False)
            if (k + 1) % 20 == 0:
                writer.write()
            storage.step()
        writer.close()
    assert lines_of(tmp_path / "metrics.json") == [
        {"iteration": 17, "key2": 17.0},
        {"iteration": 19, "key": 19.0},
        {"iteration": 34, "key2": 34.0},
        {"iteration": 39, "key": 39.0},
        {"iteration": 51, "key2": 51.0},
        {"iteration": 59, "key": 59.0},
    ]


class Runner(RunnerBase):
    """Records its iteration as loss at every iteration; ends with an error at `end`."""

    end = None

    def run_step(self):
        if self.iter == self.end:
            raise DataError("the end")
        self.storage.put_scalar("loss", self.iter)


class Now(HookBase):
    """Records a scalar every 7 iterations."""

    def after_step(self):
        if self.trainer.iter % 7 == 6:
            self.trainer.storage.put_scalar("now", self.trainer.iter)


class Snapshot(HookBase):
    """Keeps the scalars that a checkpoint after `done` iterations holds."""

    def __init__(self, done):
        self.done = done

    def after_step(self):
        if self.trainer.iter + 1 == self.done:
            storage = self.trainer.storage
            self.state = storage.windows(), storage.hints()


def train(folder, start=0, end=None, state=({}, {}), snapshot=0):
    """60 iterations, evaluated every 15 and written every 20; returns the snapshot."""
    runner = Runner()
    runner.windows, runner.hints = state
    runner.end = end
    evaluate = hooks_module.EvalHook(15, lambda: {"bbox": {"AP": runner.iter}})
    written = [JSONWriter(folder / "metrics.json", 1), TensorboardXWriter(folder)]
    writer = hooks_module.PeriodicWriter(written, 20)
    snapshot = Snapshot(snapshot)
    runner.register_hooks([Now(), snapshot, evaluate, writer])
    with contextlib.suppress(DataError):
        runner.train(start, 60)
    return getattr(snapshot, "state", None)


SEVENS = [6, 13, 20, 27, 34, 41, 48, 55]


def check(folder):
    lines = lines_of(folder / "metrics.json")
    assert [line["iteration"] for line in lines] == sorted(line["iteration"] for line in lines)
    for name, at in {"bbox/AP": [14, 29, 44, 59], "now": SEVENS, "loss": [0, 19, 39, 59]}.items():
        found = [(line["iteration"], line[name]) for line in lines if name in line]
        assert found == [(i, float(i)) for i in at], name
        assert points_of(folder, name) == found, name


def test_nothing_that_is_recorded_now_and_then_is_lost(tmp_path):
    """All four evaluations arrive, and each value of a hook that records every 7 iterations."""
    train(tmp_path)
    check(tmp_path)


@pytest.mark.parametrize("done", [8, 14, 15, 20, 30, 41, 54])
def test_resumed_runs_have_the_same_lines(done, tmp_path):
    """A run that ends 5 iterations after its last checkpoint, and is resumed from that."""
    state = train(tmp_path, end=done + 5, snapshot=done)
    assert max(line["iteration"] for line in lines_of(tmp_path / "metrics.json")) < 60
    train(tmp_path, start=done, state=state)
    check(tmp_path)


def test_hints():
    """Names with "loss" are shown as medians, others as they are; a hint says otherwise."""
    with EventStorage() as storage:
        for value in (1, 5, 3):
            storage.put_scalars(loss=value, count=value)
            storage.put_scalars(a=value, b=value, smoothing_hint=False)
            storage.put_scalar("smooth", value, smoothing_hint=True)
            storage.put_scalar("rough_loss", value, smoothing_hint=False)
            storage.step()
    assert storage.names() == ["a", "b", "count", "loss", "rough_loss", "smooth"]
    values = {name: storage.display_value(name, 2) for name in storage.names()}
    assert values == {"a": 3, "b": 3, "count": 3, "loss": 4, "rough_loss": 3, "smooth": 4}
    again = EventStorage(3)
    again.restore(storage.windows(), storage.hints())
    assert {name: again.display_value(name, 2) for name in again.names()} == values


def test_the_log_line_has_every_scalar_but_results():
    """total_loss first, then losses, then the others; lr and times once, an evaluation not."""
    text = []
    sink = logger.add(text.append, format="{message}")
    with EventStorage(9) as storage:
        storage.put_scalars(num_positive=7, aux_loss=2, total_loss=3, lr=0.5, time=1, data_time=2)
        storage.put_results({"bbox/AP": 40.0})
        CommonMetricPrinter(20).write()
    logger.remove(sink)
    (line,) = text
    names = [part.partition(":")[0] for part in line.strip().split("  ")]
    assert names == [
        "eta", "iter", "total_loss", "aux_loss", "num_positive", "time", "data_time", "lr",
        "max_mem",
    ]  # fmt: skip
    assert "num_positive: 7" in line


def test_images_reach_tensorboard(tmp_path):
    writer = TensorboardXWriter(tmp_path)
    with EventStorage(3) as storage:
        storage.put_image("picture", torch.zeros(3, 4, 5, dtype=torch.uint8))
        writer.write()
        writer.write()
    events = EventAccumulator(str(tmp_path)).Reload()
    (image,) = events.Images("picture")
    assert (image.step, image.height, image.width) == (3, 4, 5)


class At(HookBase):
    """Records its iteration at given iterations; "final" when the run closes."""

    def __init__(self, *iterations):
        self.iterations = iterations

    def after_step(self):
        if self.trainer.iter in self.iterations:
            self.trainer.storage.put_scalar("some", self.trainer.iter)

    def after_train(self):
        self.trainer.storage.put_scalar("final", 7)


def run(folder, hooks, iterations=10, period=10):
    """Train with hooks before and after the writers; returns the runner."""
    runner = Runner()
    files = [JSONWriter(folder / "metrics.json", 1), TensorboardXWriter(folder)]
    before, after = hooks
    runner.register_hooks([*before, hooks_module.PeriodicWriter(files, period), *after])
    runner.train(0, iterations)
    return runner


def found(folder, name):
    lines = lines_of(folder / "metrics.json")
    return [(line["iteration"], line[name]) for line in lines if name in line]


@pytest.mark.parametrize("late", [False, True], ids=["before the writers", "after them"])
@pytest.mark.parametrize(
    "iterations", [(0, 1, 3, 4, 6, 7, 9), (1, 2, 5), (5, 6, 7, 9), (0, 1, 2), (3,), (9,)]
)
def test_values_at_iterations_in_a_row(iterations, late, tmp_path):
    hooks = ([], [At(*iterations)]) if late else ([At(*iterations)], [])
    run(tmp_path, hooks)
    wanted = [(i, float(i)) for i in iterations]
    assert found(tmp_path, "some") == wanted and points_of(tmp_path, "some") == wanted
    assert found(tmp_path, "final") == points_of(tmp_path, "final") == [(9, 7.0)]
    assert found(tmp_path, "loss") == [(0, 0.0), (9, 9.0)]


def test_an_evaluation_at_every_iteration(tmp_path):
    """8 evaluations, written every 20: all of them arrive."""
    evaluate = hooks_module.EvalHook(1, lambda: {"bbox": {"AP": 3.0}})
    run(tmp_path, ([evaluate], []), 8, 20)
    assert (
        found(tmp_path, "bbox/AP") == points_of(tmp_path, "bbox/AP") == [(i, 3) for i in range(8)]
    )


@pytest.mark.parametrize("name, value", [("note", "text"), ("note", [1, 2]), ("iteration", 3)])
def test_a_scalar_that_cannot_be_used(name, value, tmp_path):
    """It is named, and writers write the rest."""
    with EventStorage() as storage:
        storage.put_scalar(4, torch.tensor(2.0))
        with pytest.raises(ValueError, match=f"'{name}'"):
            storage.put_scalar(name, value)
        JSONWriter(tmp_path / "metrics.json").write()
    assert lines_of(tmp_path / "metrics.json") == [{"iteration": 0, "4": 2.0}]


def test_results_that_are_no_numbers(tmp_path):
    results = {"bbox": {"AP": 40.0, "name": "text", "none": None}}
    run(tmp_path, ([hooks_module.EvalHook(5, lambda: results)], []))
    assert found(tmp_path, "bbox/AP") == [(4, 40.0), (9, 40.0)]
    assert found(tmp_path, "bbox/name") == [] and found(tmp_path, "loss")[-1] == (9, 9.0)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 3), int), "text", None])
def test_an_array_that_is_not_an_image(image):
    with EventStorage() as storage:
        with pytest.raises(ValueError, match=r"'picture'.*\(3, H, W\)"):
            storage.put_image("picture", image)
        assert not storage.images


class Picture(HookBase):
    def after_step(self):
        self.trainer.storage.put_image("picture", np.zeros((4, 5, 3), np.uint8))


def test_images_do_not_gather(tmp_path):
    """They are written at their iteration; without a writer, nothing is kept."""
    runner = run(tmp_path, ([Picture()], []))
    assert len(runner.storage.images) == 0
    events = EventAccumulator(str(tmp_path), {"images": 0}).Reload()
    assert [image.step for image in events.Images("picture")] == list(range(10))
    runner = Runner()
    runner.register_hooks([Picture()])
    runner.train(0, 3)
    assert len(runner.storage.images) == 0
    with EventStorage() as storage:
        for _ in range(100):
            storage.put_image("picture", np.zeros((4, 5, 3), np.uint8))
        assert len(storage.images) == 64


def test_only_hooks_are_registered():
    with pytest.raises(TypeError, match="HookBase; got a dict"):
        Runner().register_hooks([{}])


def test_a_lost_file_is_written_from_the_checkpoint(tmp_path):
    """metrics.json was removed: what the checkpoint has of a resumed run is written once."""
    windows = {"loss": [(4.0, 4), (5.0, 5)], "odd": [(i, i) for i in (1, 3, 5)]}
    hints = {"since": {"loss": 0, "odd": 5}, "written": 3}
    writer = JSONWriter(tmp_path / "metrics.json", 1)
    with EventStorage(6) as storage:
        storage.restore(windows, hints)
        storage.iter = 5
        for _ in range(2):
            writer.write()
    assert found(tmp_path, "odd") == [(1, 1.0), (3, 3.0), (5, 5.0)]
    assert found(tmp_path, "loss") == [(5, 5.0)]
