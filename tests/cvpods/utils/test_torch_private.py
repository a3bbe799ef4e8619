"""Private names of torch and of multiprocessing: they exist, and one module alone uses them."""

import ast
import inspect
import io
import multiprocessing
import re
import signal
import threading
import zipfile
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.rendezvous import dynamic_rendezvous
from torch.multiprocessing.spawn import ProcessContext
from torch.utils.data import DataLoader, dataloader

import cvpods
import cvpods_ext
from cvpods.solver import WarmupMultiStepLR
from cvpods.utils import torch_private

# Documented methods that begin with an underscore: of named tuples, and os._exit.
PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_exit"}


def foreign_private_names(source: str) -> list[str]:
    """Return the private names in a module that are read of, or imported from, something foreign.

    Names of self, cls, super() and of the module's own classes and arguments are not foreign.
    """
    tree = ast.parse(source)
    own = {node.attr for node in ast.walk(tree) if is_own(node)}
    own |= {
        node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not is_own(node):
            found += [node.attr] if is_private(node.attr) and node.attr not in own else []
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("cvpods"):
            parts = str(node.module).split(".")
            found += [name for name in parts if is_private(name)]
            found += [alias.name for alias in node.names if is_private(alias.name)]
    return found


def is_private(name: str) -> bool:
    return re.fullmatch(r"_[A-Za-z]\w*", name) is not None and name not in PUBLIC


def is_own(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute):
        return False
    value = node.value
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "super"
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def test_one_module_uses_private_names():
    found = {}
    for package in (cvpods, cvpods_ext):
        for path in Path(package.__file__).parent.rglob("*.py"):
            if names := foreign_private_names(path.read_text(encoding="utf-8")):
                found[path.name] = set(names)
    names = found.pop("torch_private.py")
    assert found == {}
    assert names == {
        "_BaseDataLoaderIter",
        "_BatchNorm",
        "_C",
        "_NormBase",
        "_last_lr",
        "_on_queue_feeder_error",
        "_shutdown",
        "_step_count",
        "_stop_workers",
    }


@pytest.mark.parametrize(
    "source, expected",
    [
        ("torch._C.x", ["_C"]),
        ("from torch.nn import _Base", ["_Base"]),
        ("from torch._dynamo import x", ["_dynamo"]),
        ("from cvpods.x import _y", []),
        ("self._x; cls._y; super()._z()", []),
        ("self._x = 1; other._x", []),
        ("values._replace(); x.__dict__", []),
    ],
)
def test_foreign_names(source, expected):
    assert foreign_private_names(source) == expected


def test_archive_record(tmp_path):
    """Equal to what zipfile finds in a file that torch wrote."""
    torch.save({"model": torch.arange(3)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        expected = archive.read("x/data.pkl")
    assert torch_private.read_archive_record(tmp_path / "x.pth", "data.pkl") == expected
    assert b"arange" not in expected and len(io.BytesIO(expected).read()) > 10


def test_type_of_a_loaders_iterator():
    iterator = iter(DataLoader([1]))
    assert isinstance(iterator, dataloader._BaseDataLoaderIter)


def test_norm_classes():
    batch = [nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2)]
    instance = [nn.InstanceNorm1d(2), nn.InstanceNorm2d(2), nn.InstanceNorm3d(2)]
    assert all(isinstance(norm, torch_private.batch_norm_class()) for norm in batch)
    assert not any(isinstance(norm, torch_private.batch_norm_class()) for norm in instance)
    assert all(isinstance(norm, torch_private.norm_class()) for norm in batch + instance)
    assert not isinstance(nn.GroupNorm(1, 2), torch_private.norm_class())


def test_schedule_progress():
    """torch's own schedule has the two attributes, and reads them."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    assert schedule._step_count == 1 and schedule._last_lr == [0.1]
    torch_private.set_schedule_progress(schedule, 7, (0.5,))
    assert schedule.get_last_lr() == [0.5]
    assert schedule.state_dict()["_step_count"] == 7


def test_schedule_continues_without_a_warning(recwarn):
    """step() would warn if it counted from 0: the optimiser has not stepped in this process."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    warm = {"warmup_factor": 0.1, "warmup_iters": 0, "warmup_method": "linear"}
    schedule = WarmupMultiStepLR(optimizer, milestones=[6], gamma=0.5, **warm)
    schedule.load_state_dict({"last_epoch": 5, "_step_count": 6})
    schedule.step()
    assert schedule.get_last_lr() == [0.05] and not recwarn


def test_queue_error_handler(monkeypatch):
    """A lambda cannot be pickled, so the queue's thread cannot send it."""
    called = threading.Event()
    handler = staticmethod(Queue._on_queue_feeder_error)
    monkeypatch.setattr(Queue, "_on_queue_feeder_error", handler)
    torch_private.set_queue_error_handler(lambda error, sample: called.set())
    queue = multiprocessing.get_context("spawn").Queue()
    queue.put(lambda: None)
    assert called.wait(10)
    queue.close()
    queue.join_thread()


def test_kill_failed_groups(monkeypatch):
    """The launcher's agent calls _stop_workers(), and ends the workers in _shutdown()."""
    assert "_stop_workers" in inspect.getsource(inspect.getmodule(LocalElasticAgent.__mro__[1]))
    assert "death_sig" in inspect.signature(LocalElasticAgent._shutdown).parameters
    monkeypatch.setattr(LocalElasticAgent, "_stop_workers", LocalElasticAgent._stop_workers)
    torch_private.kill_failed_groups()
    signals = []

    class Agent:
        def _shutdown(self, death_sig):
            signals.append(death_sig)

    LocalElasticAgent._stop_workers(Agent(), "group")
    assert signals == [getattr(signal, "SIGKILL", signal.SIGTERM)]


def test_shorten_join(monkeypatch):
    """join() waits for the seconds of the last call, unless its caller says otherwise."""
    waits = []

    def join(self, timeout=None, grace_period=None):
        waits.append((timeout, grace_period))
        return True

    monkeypatch.setattr(ProcessContext, "join", join)
    for seconds in (50.0, 1.0):
        torch_private.shorten_join(seconds)
    context = ProcessContext([], [])
    assert context.join() and context.join(5.0) and context.join(5.0, 20.0)
    assert waits == [(None, 1.0), (5.0, 1.0), (5.0, 20.0)]


def test_shorten_join_without_a_grace_period(monkeypatch):
    """Leave join() as it is in torch 2.6."""

    def join(self, timeout=None):
        return True

    monkeypatch.setattr(ProcessContext, "join", join)
    torch_private.shorten_join(1.0)
    assert ProcessContext.join is join


def test_join_has_a_grace_period():
    original = inspect.unwrap(ProcessContext.join)
    names = list(inspect.signature(original).parameters)
    assert names[:3] in (["self", "timeout", "grace_period"], ["self", "timeout"])


def test_separate_rendezvous_stores(monkeypatch):
    variable = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    monkeypatch.delenv(variable, raising=False)
    torch_private.separate_rendezvous_stores()
    assert f'getenv("{variable}", "0") ' in inspect.getsource(dynamic_rendezvous)


def test_hooks_of_modules():
    """FrozenBatchNorm2d, AnchorGrid and RetinaNet override this method, which torch calls."""
    names = list(inspect.signature(nn.Module._load_from_state_dict).parameters)
    assert names[:4] == ["self", "state_dict", "prefix", "local_metadata"]
