"""Nothing after an optimiser step can lose it: each part fails at each kind of iteration."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cvpods.engine import failures, hooks, writers
from cvpods.utils import comm
from cvpods.utils.errors import CheckpointError, DataError
from cvpods.utils.stop import PeerFailed, Stopped
from tests.reliability import failing_runs as runs
from tests.reliability.failing_runs import END, LAST, MIDDLE, PARTS, at, failing

# Nothing is saved of the iteration in which these fail: they belong to the step.
MOVING = ("schedule", "average")


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    runs.run(folder)
    return folder


def newest(output: Path) -> int:
    """Iterations that the newest checkpoint holds."""
    found = [torch.load(p, weights_only=True)["iteration"] + 1 for p in output.glob("model_*.pth")]
    return max(found, default=0)


def saved_after(part: str, iteration: int) -> int:
    """Iterations that are saved when `part` has failed: all that are done, where state is whole."""
    if part in MOVING:
        return iteration // 2 * 2  # the last periodic checkpoint
    return iteration if part in ("user's before", "forward") else iteration + 1


@pytest.mark.parametrize(
    "iteration, late", [(0, False), (MIDDLE, False), (MIDDLE, True), (END, False)]
)
@pytest.mark.parametrize("part", [part for part in PARTS if part != "evaluation"])
def test_a_failing_hook_saves_first(part, iteration, late, tmp_path, reference):
    """The run ends saved; resumed, it ends as the run that nothing interrupted, bit for bit."""
    owner, method = PARTS[part]
    with failing(owner, method, at(iteration), late), pytest.raises(DataError, match="injected"):
        runs.run(tmp_path)
    assert newest(tmp_path) == saved_after(part, iteration)
    runs.run(tmp_path, resume=True)
    runs.same_end(tmp_path, reference)
    wanted = runs.metrics(reference)
    if part == "user's" and not late:
        wanted.get(iteration, {}).pop("odd", None)  # it never was recorded
    assert runs.metrics(tmp_path) == wanted


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("iteration", [2, END])
def test_a_failing_evaluation(iteration, late, tmp_path, reference):
    """Training continues after a periodic one; the last one fails the run, with model_final there.

    Resumed, the last evaluation is made up.
    """
    log = []
    sink = writers.logger.add(log.append, format="{level} {message}", level="ERROR")
    with failing(runs.NumbersRunner, "evaluate", at(iteration), late):
        if iteration == END:
            with pytest.raises(DataError, match="injected"):
                runs.run(tmp_path)
        else:
            runs.run(tmp_path)
    writers.logger.remove(sink)
    assert any("injected" in line for line in log)
    assert newest(tmp_path) == LAST
    runs.run(tmp_path, resume=True)
    runs.same_end(tmp_path, reference)
    wanted = runs.metrics(reference)
    if iteration != END:
        del wanted[iteration]  # holds the evaluation's metrics alone
    assert runs.metrics(tmp_path) == wanted


@pytest.mark.parametrize("done", [2, 4, LAST])
def test_a_full_disk(done, tmp_path, reference):
    """The checkpoint of an iteration cannot be written: the one before is resumed from."""
    with runs.full_disk(done - 1), pytest.raises(CheckpointError, match="No space left"):
        runs.run(tmp_path)
    assert newest(tmp_path) == done - 2
    assert not list(tmp_path.glob(".*.tmp"))
    runs.run(tmp_path, resume=True)
    runs.same_end(tmp_path, reference)
    assert runs.metrics(tmp_path) == runs.metrics(reference)


@pytest.mark.parametrize("iteration", [0, MIDDLE, END])
@pytest.mark.parametrize("writer", ["JSONWriter", "TensorboardXWriter", "CommonMetricPrinter"])
def test_a_failing_writer(writer, iteration, tmp_path, reference):
    """It is named in the log, training continues, and the other writers write everything."""
    owner = getattr(writers, writer)
    method = "write" if writer == "CommonMetricPrinter" else "append"
    log = []
    sink = writers.logger.add(log.append, format="{level} {message}", level="ERROR")
    with failing(owner, method, runs.writing(iteration)):
        runs.run(tmp_path)
    writers.logger.remove(sink)
    runs.same_end(tmp_path, reference)
    names = {"JSONWriter": "metrics.json", "TensorboardXWriter": "events.out.tfevents"}
    wrote = iteration % 2 == 1 or iteration == 0
    assert len([line for line in log if names.get(writer, writer) in line]) == wrote
    if writer != "JSONWriter":
        assert runs.metrics(tmp_path) == runs.metrics(reference)


@pytest.mark.parametrize("kind", ["metrics.json", "events"])
def test_files_that_cannot_be_written(kind, tmp_path, reference, monkeypatch):
    """metrics.json is a folder; no event can be appended: the rest is as ever."""
    if kind == "metrics.json":
        (tmp_path / kind).mkdir()
    else:

        def append(path, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writers, "_append_events", append)
    runs.run(tmp_path)
    runs.same_end(tmp_path, reference)
    if kind == "events":
        assert runs.metrics(tmp_path) == runs.metrics(reference)
        assert not list(tmp_path.glob("events*"))


def test_an_append_that_fails_leaves_the_file(tmp_path, monkeypatch):
    """Half of the second line is written when the disk is full: the first one is what remains."""
    path = tmp_path / "metrics.json"
    writers.append_atomically(path, b"first\n")
    real = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *info):
            self.file.close()

        def write(self, content):
            self.file.write(content[:3])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: Full(real(self, mode)))
        for target in (path, tmp_path / "new"):
            with pytest.raises(OSError, match="No space"):
                writers.append_atomically(target, b"second\n")
    assert path.read_bytes() == b"first\n" and not (tmp_path / "new").exists()


def test_closing_that_fails(tmp_path, reference):
    """after_train of a user's hook: everything is saved by then, and the command fails."""
    with failing(runs.Users, "after_train", lambda hook: True), pytest.raises(DataError):
        runs.run(tmp_path)
    runs.same_end(tmp_path, reference)


def test_closing_does_not_hide_the_first_failure(tmp_path):
    with (
        failing(runs.Users, "after_train", lambda hook: True),
        failing(runs.NumbersRunner, "_step_optimizer", at(MIDDLE)),
        pytest.raises(DataError) as caught,
    ):
        runs.run(tmp_path)
    assert any(
        entry.name == "_step_optimizer" or "run_step" in entry.name for entry in caught.traceback
    )


@pytest.mark.parametrize("part", ["user's", "user's before", "forward", "evaluation"])
@pytest.mark.parametrize(
    "end, said",
    [
        (SystemExit(), r"sys.exit\(\) was called"),
        (SystemExit(3), r"sys.exit\(3\) was called"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
    ids=["exit", "exit 3", "interrupt"],
)
def test_an_end_that_a_user_asks_for_saves_first(end, said, part, tmp_path, reference):
    """It keeps its status, the log says why and what is saved, and the run can be resumed."""
    iteration = 2 if part == "evaluation" else MIDDLE
    owner, method = PARTS[part]
    log = []
    sink = writers.logger.add(log.append, format="{message}", level="WARNING")
    with failing(owner, method, at(iteration), error=end), pytest.raises(type(end)) as caught:
        runs.run(tmp_path)
    writers.logger.remove(sink)
    assert caught.value is end
    done = saved_after(part, iteration)
    assert newest(tmp_path) == done
    assert re.match(rf"{said}\. {done} of 6 iterations are done and saved", log[-1])
    assert not any("Traceback" in line for line in log)
    runs.run(tmp_path, resume=True)
    runs.same_end(tmp_path, reference)


class OldStyle(runs.NumbersRunner):
    """Its build_hooks() lists what it wants, and not what every run needs."""

    def build_hooks(self):
        return [
            runs.Users(),
            hooks.PeriodicCheckpointer(self.save, self.cfg.SOLVER.CHECKPOINT_PERIOD),
        ]


class WithSchedule(OldStyle):
    def build_hooks(self):
        return [*super().build_hooks(), self.ema, hooks.LRScheduler(self.optimizer, self.scheduler)]


@pytest.mark.parametrize("kind", [OldStyle, WithSchedule])
def test_hooks_that_are_left_out(kind, tmp_path, reference):
    """Schedule, average and signals work, each once."""
    runner = runs.run(tmp_path, kind=kind)
    runs.same_end(tmp_path, reference)
    names = sorted(type(hook).__name__ for hook in runner._hooks)
    assert names == ["LRScheduler", "ModelEMA", "PeriodicCheckpointer", "StatusExchange", "Users"]


def test_a_signal_to_a_run_without_the_status_exchange(tmp_path):
    def send(hook):
        if hook.trainer.iter == MIDDLE:
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(runs.Users, "after_step", send), pytest.raises(Stopped):
        runs.run(tmp_path, kind=OldStyle)
    assert newest(tmp_path) == MIDDLE + 1


def test_resume_does_not_replace_weights_alone(tmp_path):
    """They are in earlier_1 afterwards, and the run has started from them where it was told so."""
    weights = tmp_path / "model_final.pth"
    torch.save({"model": {"weight": torch.tensor([3.0, 3, 3])}, "note": "mine"}, weights)
    changes = {"MODEL.WEIGHTS": str(weights), "SOLVER.OPTIMIZER.BASE_LR": 1e-6}
    runner = runs.run(tmp_path, resume=True, **changes)
    kept = torch.load(tmp_path / "earlier_1" / "model_final.pth", weights_only=True)
    assert kept["note"] == "mine" and newest(tmp_path) == LAST
    assert torch.allclose(runner.bare_model.weight, torch.tensor(3.0), atol=1e-3)


def test_descriptions_of_errors():
    assert failures.describe_error(RuntimeError()) == "RuntimeError"
    assert failures.describe_error(RuntimeError("Expected 3. Got 4.\nmore")) == (
        "RuntimeError: Expected 3. Got 4."
    )


# -- two processes ---------------------------------------------------------------------------------

# (part, rank that fails or None for both, iteration).
TOGETHER = [
    ("user's", 1, 0),
    ("user's", 0, MIDDLE),
    ("user's", 1, END),
    ("timer", 1, MIDDLE),
    ("user's", None, MIDDLE),
    ("evaluation", 1, 2),
    ("reset", 1, 2),
    ("exit", 1, MIDDLE),
    ("evaluation", None, 2),
    ("evaluation", 0, END),
]


OWNERS = {
    "evaluation": (runs.Mean, "process"),
    "reset": (runs.Mean, "reset"),
    "exit": PARTS["user's"],
}


def two_processes(rank: int, folder: str) -> None:
    """Let each case fail, end on both ranks, and be resumed."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    reference = Path(folder) / "reference"
    runs.run(reference)
    for number, (part, failing_rank, iteration) in enumerate(TOGETHER):
        output = Path(folder) / f"case_{number}"
        # An evaluation fails while this rank's images are read.
        owner, method = OWNERS.get(part) or PARTS[part]
        when = at(iteration, failing_rank)
        if evaluates := part in ("evaluation", "reset"):
            when = evaluating(iteration, failing_rank)
        ended = None
        kind = SystemExit if part == "exit" else DataError
        with failing(owner, method, when, error=kind("injected")):
            try:
                runs.run(output)
            except kind as error:
                ended = error
            except PeerFailed as error:
                ended = error
                assert "injected" in str(error)
        mine = failing_rank in (None, rank)
        assert type(ended) is (
            type(None) if evaluates and iteration != END else kind if mine else PeerFailed
        ), (part, failing_rank, iteration, ended)
        comm.synchronize()
        if rank == 0:
            done = LAST if evaluates else iteration + 1
            assert newest(output) == done, (part, failing_rank, iteration)
        runs.run(output, resume=True)
        comm.synchronize()
        runs.same_end(output, reference)
        comm.synchronize()
    dist.destroy_process_group()


def evaluating(iteration, failing_rank):
    def when(evaluator):
        storage = writers.get_event_storage()
        return storage.iter == iteration and failing_rank in (None, comm.get_rank())

    return when


@pytest.mark.slow
def test_two_processes_end_together(tmp_path):
    """A failure on one rank reaches the other before any collective call could wait for it."""
    mp.start_processes(two_processes, args=(str(tmp_path),), nprocs=2, start_method="fork")
