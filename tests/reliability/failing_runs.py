"""Runs of a model of a few numbers in which one part fails at one iteration."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from cvpods.data.samplers import BatchPlan, TrainingBatchSampler, TrainingStream
from cvpods.engine import DefaultRunner, HookBase, hooks, writers
from cvpods.engine.status import StatusExchange
from cvpods.evaluation import DatasetEvaluator, inference_on_dataset
from cvpods.utils import comm
from cvpods.utils.errors import DataError
from tests.cvpods.engine.test_runner import make_config

LAST = 6  # iterations; checkpoints every 2, evaluations every 3
MIDDLE, END = 3, 5


class Numbers(nn.Module):
    """A batch norm, dropout and a weight, which a resumed run easily gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.drop = nn.Dropout(0.3)
        self.weight = nn.Parameter(torch.tensor([2.0, -1.0, 0.5]))

    def forward(self, batch: list[float]) -> Any:
        x = torch.tensor([[float(value)] for value in batch])
        y = self.drop(self.norm(x) * self.weight)
        return {"loss_y": (y - 1).square().mean()} if self.training else [float(v.sum()) for v in y]


class Loader:
    """Batches that are a function of their position, with the attributes of a training loader."""

    def __init__(self, plan: BatchPlan) -> None:
        self.batch_sampler = TrainingBatchSampler(
            TrainingStream([0] * 8, 2, 0), plan, comm.get_rank()
        )
        inner = type("Inner", (), {"meta": {}})()
        self.dataset = type("Data", (), {"dataset": inner, "__len__": lambda s: 8})()

    def __iter__(self) -> Iterator[list[float]]:
        for keys in self.batch_sampler:
            yield [key.index + key.seed % 7 / 7 for key in keys]


class Mean(DatasetEvaluator):
    """Mean of the model's outputs over all processes."""

    def reset(self) -> None:
        self.found: list[float] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        self.found += outputs

    def evaluate(self) -> Any:
        found = comm.gather_list(self.found)
        return {"mean": {"y": sum(found) / len(found)}} if found else {}


class Users(HookBase):
    """A hook of an experiment's own, which records a scalar now and then."""

    def after_step(self) -> None:
        if self.trainer.iter % 2 and comm.is_main_process():
            self.trainer.storage.put_scalar("odd", self.trainer.iter)


class NumbersRunner(DefaultRunner):
    @classmethod
    def build_train_loader(cls, cfg: Any, plan: Any = None, *args: Any, **kwargs: Any) -> Any:
        return Loader(plan)

    @classmethod
    def test(cls, cfg: Any, model: nn.Module, output_folder: Any = None) -> Any:
        images = [[1.0, 2.0], [comm.get_rank()]]
        return inference_on_dataset(model, images, Mean())

    def build_hooks(self) -> list[Any]:
        return [Users(), *super().build_hooks()]


def run(
    output: Path, resume: bool = False, kind: type[NumbersRunner] = NumbersRunner, **changes: Any
) -> NumbersRunner:
    """Train with the average, the schedule, evaluations and checkpoints."""
    cfg = make_config(output, CHECKPOINT_PERIOD=2)
    output.mkdir(exist_ok=True)
    cfg.override(
        {
            "SOLVER.LR_SCHEDULER.MAX_ITER": LAST,
            "SOLVER.LR_SCHEDULER.STEPS": (4,),
            "SOLVER.OPTIMIZER.MOMENTUM": 0.9,
            "TRAINER.EMA.ENABLED": True,
            "TRAINER.EMA.DECAY": 0.5,
            "TEST.EVAL_PERIOD": 3,
            "DATASETS.TEST": ("numbers",),
            "GLOBAL.LOG_INTERVAL": 2,
            **changes,
        }
    )
    torch.manual_seed(0)
    runner = kind(cfg, lambda cfg: Numbers())
    runner.resume_or_load(resume)
    runner.train()
    return runner


def metrics(output: Path) -> dict[int, dict[str, float]]:
    """Return the records of metrics.json by iteration, without times."""
    found: dict[int, dict[str, float]] = {}
    for line in (output / "metrics.json").read_text().splitlines():
        record = json.loads(line)
        kept = {name: value for name, value in record.items() if "time" not in name}
        found.setdefault(record["iteration"], {}).update(kept)
    return found


def same_end(output: Path, reference: Path) -> None:
    """Weights, average, optimiser and schedule agree bit for bit."""
    one, other = (torch.load(o / "model_final.pth", weights_only=True) for o in (output, reference))
    assert one["iteration"] == other["iteration"] == LAST - 1
    for part in ("model", "ema"):
        assert all(torch.equal(one[part][name], value) for name, value in other[part].items()), part
    assert one["scheduler"] == other["scheduler"]
    buffers = [o["optimizer"]["state"][0]["momentum_buffer"] for o in (one, other)]
    assert torch.equal(*buffers)


@contextmanager
def failing(
    owner: Any,
    method: str,
    when: Callable[[Any], bool],
    late: bool = False,
    error: BaseException | None = None,
) -> Any:
    """Let a method fail, before or after (`late`) its work, when `when(its object)` says so."""
    original = getattr(owner, method)

    def fails(self: Any, *args: Any, **kwargs: Any) -> Any:
        if when(self) and not late:
            raise error or DataError("injected")
        result = original(self, *args, **kwargs)
        if when(self):
            raise error or DataError("injected")
        return result

    with mock.patch.object(owner, method, fails):
        yield


@contextmanager
def full_disk(iteration: int) -> Any:
    """Make the checkpoint of an iteration fail to be written."""
    original = torch.save

    def save(content: Any, file: Any) -> None:
        if isinstance(content, dict) and content.get("iteration") == iteration:
            file.write(b"PK half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(content, file)

    with mock.patch.object(torch, "save", save):
        yield


def at(iteration: int, rank: int | None = None) -> Callable[[Any], bool]:
    """Return a condition for failing(): the iteration of a hook or of a runner."""

    def when(self: Any) -> bool:
        if rank is not None and comm.get_rank() != rank:
            return False
        runner = getattr(self, "trainer", self)
        return getattr(runner, "iter", None) == iteration

    return when


def writing(iteration: int) -> Callable[[Any], bool]:
    return lambda writer: writers.get_event_storage().iter == iteration


# What fails: its class and method.
PARTS: dict[str, tuple[Any, str]] = {
    "timer": (hooks.IterationTimer, "after_step"),
    "schedule": (hooks.LRScheduler, "after_step"),
    "average": (hooks.ModelEMA, "after_step"),
    "checkpointer": (hooks.PeriodicCheckpointer, "after_step"),
    "evaluation": (NumbersRunner, "evaluate"),
    "writer hook": (hooks.PeriodicWriter, "after_step"),
    "status exchange": (StatusExchange, "after_step"),
    "user's": (Users, "after_step"),
    "user's before": (Users, "before_step"),
    "forward": (NumbersRunner, "_write_metrics"),
}
