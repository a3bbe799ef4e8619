"""Every private part of torch and of multiprocessing that this project reads or replaces.

Each function states why a public name is not enough. The names exist in torch 2.6 to 2.14 unless
the function says otherwise. tests/cvpods/utils/test_torch_private.py fails when a name goes, and
when another module uses a private name.

Imports of torch's parts are inside the functions, because most of them are slow and few callers
need more than one.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.multiprocessing.spawn import ProcessContext
    from torch.optim.lr_scheduler import LRScheduler

    # The type of iter(DataLoader), for annotations of overrides. It has no public name.
    from torch.utils.data.dataloader import _BaseDataLoaderIter as DataLoaderIterator  # noqa: F401


def read_archive_record(path: Path, name: str) -> bytes:
    """Return one record of a .pth archive, as torch.load would read it.

    zipfile may find another entry under the same name, so that a check of that entry would say
    nothing about the one that torch.load uses. torch has no public reader of single records.
    """
    import torch

    return torch._C.PyTorchFileReader(str(path)).get_record(name)


def batch_norm_class() -> type[nn.Module]:
    """Return the common base class of all batch norms of torch, and of users' own.

    torch has no public class that BatchNorm1d, BatchNorm2d, BatchNorm3d and SyncBatchNorm share.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    return _BatchNorm


def norm_class() -> type[nn.Module]:
    """Return the common base class of all batch norms and instance norms.

    torch has no public class for norms with running statistics.
    """
    from torch.nn.modules.batchnorm import _NormBase

    return _NormBase


def set_schedule_progress(
    schedule: LRScheduler, step_count: int, learning_rates: Sequence[float]
) -> None:
    """Set how often a schedule has stepped, and the learning rates of its last step.

    load_state_dict() of torch also overwrites what a schedule takes from the config, and a schedule
    has no public setter. step() warns about a wrong order of calls if the count is wrong.
    """
    schedule._step_count = step_count
    schedule._last_lr = list(learning_rates)


def set_queue_error_handler(handler: Callable[[Exception, object], None]) -> None:
    """Call handler(error, object) when the thread of a multiprocessing queue cannot send an object.

    This is Python's own private hook (3.7 and later, "for overriding by concurrent.futures"). By
    default, the thread prints a traceback and drops the object, for which the receiver then waits
    forever.
    """
    from multiprocessing.queues import Queue

    Queue._on_queue_feeder_error = staticmethod(handler)  # type: ignore[attr-defined]  # private


def kill_failed_groups() -> None:
    """Make torch's launcher kill the rest of a process group in which one process has failed.

    The launcher would send SIGTERM and wait for 30 s. The other processes wait for the failed one
    inside a collective call and have nothing left to save. The launcher has no setting for this.
    """
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    LocalElasticAgent._stop_workers = _kill_workers  # type: ignore[method-assign]  # replaced on purpose


def _kill_workers(agent: LocalElasticAgent, *args: Any, **kwargs: Any) -> None:
    # Windows does not have SIGKILL.
    agent._shutdown(death_sig=getattr(signal, "SIGKILL", signal.SIGTERM))


def shorten_join(seconds: float) -> None:
    """Give the processes that torch spawns `seconds`, not 30 s, to end after one has failed.

    torch's launcher does not pass a grace period to ProcessContext.join(). torch 2.6 does not have
    the parameter; nothing is changed there.
    """
    from torch.multiprocessing.spawn import ProcessContext

    original = inspect.unwrap(ProcessContext.join)
    if "grace_period" not in inspect.signature(original).parameters:
        return

    @functools.wraps(original)
    def join(
        context: ProcessContext, timeout: float | None = None, grace_period: float | None = None
    ) -> bool:
        return original(context, timeout, seconds if grace_period is None else grace_period)

    ProcessContext.join = join  # type: ignore[assignment, method-assign]  # replaced on purpose


def separate_rendezvous_stores() -> None:
    """Give each start of a process group a store of its own.

    By default, torch's launcher reuses its rendezvous store (torch 2.5 and later), which keeps the
    addresses of the group that failed. Only an undocumented environment variable turns this off.
    """
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
