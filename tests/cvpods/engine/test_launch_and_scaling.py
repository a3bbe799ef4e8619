"""The launcher, the division of batches, linear scaling, epochs."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from cvpods.configs import BaseDetectionConfig
from cvpods.engine.launch import WorkersFailed, launch
from cvpods.engine.scaling import plan_batches, resolve_epochs
from cvpods.engine.worker import exit_status
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError


def report() -> tuple[int, int, bool]:
    return comm.get_rank(), comm.get_world_size(), dist.is_initialized()


def gather_ranks() -> list:
    summed = comm.all_reduce(torch.tensor([1.0]))
    return [comm.all_gather(comm.get_rank()), comm.gather("x"), summed.item()]


def fail_on_rank_1() -> None:
    if comm.get_rank() == 1:
        raise RuntimeError("boom on rank 1")
    comm.synchronize()


def test_one_process_has_a_group():
    assert launch(report, 0) == (0, 1, True)
    assert not dist.is_initialized()


@pytest.mark.slow
def test_two_processes_talk():
    """Rank 0 returns: both ranks' numbers, both ranks' strings, 1 + 1."""
    ranks, strings, total = launch(gather_ranks, num_processes=2)
    assert ranks == [0, 1] and strings == ["x", "x"] and total == 2


@pytest.mark.slow
def test_a_failing_process_ends_the_others():
    with pytest.raises(WorkersFailed, match="Process 1 failed first"):
        launch(fail_on_rank_1, num_processes=2)


def end_on_rank_1(end: BaseException) -> None:
    if comm.get_rank() == 1:
        raise end
    comm.synchronize()


@pytest.mark.slow
@pytest.mark.parametrize("end", [SystemExit(), SystemExit(0)])
def test_an_exit_of_one_process_ends_the_others(end):
    with pytest.raises(WorkersFailed, match=r"Process 1 failed first \(exit status 1\)"):
        launch(end_on_rank_1, args=(end,), num_processes=2)


@pytest.mark.parametrize(
    "end, status, said",
    [
        (SystemExit(), 1, "Rank 0: sys.exit"),
        (SystemExit(256), 1, "Rank 0: sys.exit"),
        (SystemExit("text"), 1, "Rank 0: text"),
        (SystemExit(3), 3, ""),
        (SystemExit(-1), 255, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_statuses_of_processes(end, status, said, capsys):
    assert exit_status(end) == status and said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_machines": 2}, "--dist-url"),
        (
            {"num_machines": 2, "machine_rank": 2, "dist_url": "tcp://a:1"},
            r"--machine-rank must be in \[0, 2\); got 2",
        ),
        ({"num_machines": 2, "dist_url": "nonsense"}, "tcp://host:port"),
        ({"num_machines": 2, "dist_url": "tcp://a:1/b"}, "tcp://host:port"),
        ({"num_machines": 2, "dist_url": "tcp://a:65536"}, r"\[1, 65535\]; got 65536"),
        ({"max_restarts": 1, "dist_url": "tcp://a:0"}, r"\[1, 65535\]; got 0"),
        ({"num_machines": 0}, "--num-machines must be at least 1"),
        ({"max_restarts": -1}, "--max-restarts must be at least 0; got -1"),
        ({"wait_minutes": 0.0}, "--wait-minutes must be a number above 0"),
        ({"wait_minutes": float("nan")}, "--wait-minutes must be a number above 0"),
        ({"num_processes": 0}, "--num-processes must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        launch(report, 0, **arguments)


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that makes torch find a number of GPUs."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(
    "found, asked, message",
    [
        (2, {"num_gpus_per_machine": 3}, "--num-gpus 3: this machine has 2"),
        (2, {"num_gpus_per_machine": -1}, "must be 0 or more; got -1"),
        (2, {"num_gpus_per_machine": 1, "num_processes": 2}, "leave --num-gpus 1 out"),
    ],
)
def test_gpus_that_are_not_there(gpus, found, asked, message):
    gpus(found)
    with pytest.raises(ConfigError, match=message):
        launch(report, **asked)


@pytest.mark.parametrize(
    "found, asked",
    [(0, {}), (0, {"num_gpus_per_machine": 0}), (2, {"num_gpus_per_machine": 0})],
)
def test_one_process_on_the_cpu(gpus, found, asked):
    """The backend is gloo, which needs no GPU, even on a machine with GPUs."""
    gpus(found)
    assert launch(backend, **asked) == "gloo"


def backend() -> str:
    return dist.get_backend()


def config(**solver):
    cfg = BaseDetectionConfig()
    cfg.merge({"SOLVER": solver})
    return cfg


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 8, 16])
def test_any_number_of_processes_keeps_the_batch(world_size):
    cfg = config(IMS_PER_BATCH=16, IMS_PER_DEVICE=2)
    before = cfg.SOLVER.OPTIMIZER.BASE_LR
    plan = plan_batches(cfg, world_size)
    assert sum(sum(share) for share in plan.shares) == 16
    assert cfg.SOLVER.OPTIMIZER.BASE_LR == before and cfg.SOLVER.IMS_PER_BATCH == 16


def test_linear_scaling_is_cvpods_rule():
    """1 process of 2 images against 16: lr / 8, iterations x 8; warm-up untouched."""
    cfg = config(IMS_PER_BATCH=16, IMS_PER_DEVICE=2, AUTO_SCALE="linear")
    cfg.merge(
        {
            "SOLVER": {
                "LR_SCHEDULER": {"MAX_ITER": 90000, "STEPS": (60000, 80000)},
                "OPTIMIZER": {"BASE_LR": 0.01},
                "CHECKPOINT_PERIOD": 5000,
            },
            "TEST": {"EVAL_PERIOD": 10000},
        }
    )
    plan_batches(cfg, 1)
    assert cfg.SOLVER.IMS_PER_BATCH == 2
    assert cfg.SOLVER.OPTIMIZER.BASE_LR == 0.01 / 8
    assert cfg.SOLVER.LR_SCHEDULER.MAX_ITER == 720_000
    assert list(cfg.SOLVER.LR_SCHEDULER.STEPS) == [480_000, 640_000]
    assert cfg.SOLVER.LR_SCHEDULER.WARMUP_ITERS == 1000
    assert cfg.SOLVER.CHECKPOINT_PERIOD == 40_000 and cfg.TEST.EVAL_PERIOD == 80_000


def test_linear_scaling_of_the_configured_world_changes_nothing():
    cfg = config(IMS_PER_BATCH=16, IMS_PER_DEVICE=2, AUTO_SCALE="linear")
    plan_batches(cfg, 8)
    assert cfg == config(IMS_PER_BATCH=16, IMS_PER_DEVICE=2, AUTO_SCALE="linear")


@pytest.mark.parametrize(
    "solver, message",
    [
        ({"AUTO_SCALE": "square"}, "AUTO_SCALE"),
        ({"IMS_PER_BATCH": 1}, "IMS_PER_BATCH 1 cannot be divided over 2"),
        ({"BATCH_SUBDIVISIONS": 3}, "multiple of"),
        ({"BATCH_SUBDIVISIONS": 0}, "multiple of"),
    ],
)
def test_bad_batches(solver, message):
    with pytest.raises(ConfigError, match=message):
        plan_batches(config(**solver), 2)


def test_epochs_become_iterations():
    """100 images, 16 a step: 7 iterations an epoch."""
    cfg = config(IMS_PER_BATCH=16, CHECKPOINT_PERIOD=1)
    cfg.SOLVER.LR_SCHEDULER.update(MAX_EPOCH=12, STEPS=(8, 11), WARMUP_ITERS=1)
    cfg.TEST.EVAL_PERIOD = 2
    resolve_epochs(cfg, 100)
    schedule = cfg.SOLVER.LR_SCHEDULER
    assert schedule.MAX_ITER == 84 and list(schedule.STEPS) == [56, 77]
    assert schedule.WARMUP_ITERS == 7
    assert cfg.SOLVER.CHECKPOINT_PERIOD == 7 and cfg.TEST.EVAL_PERIOD == 14
