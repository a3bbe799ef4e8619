"""Thin helpers over torch.distributed that also work without a process group."""

from __future__ import annotations

import datetime
import math
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DataParallel, DistributedDataParallel

DDP_TYPES = (DistributedDataParallel,)
DP_TYPES = (DataParallel, DistributedDataParallel)

# How long a rank waits for another that is still at work, say scoring; one that died is noticed at
# once, because its connections close.
_PATIENCE = datetime.timedelta(days=1)
_CONTROL: dict[Any, Any] = {}


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Index of this process among all processes."""
    return dist.get_rank() if _initialized() else 0


def get_local_rank() -> int:
    """Index of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if _initialized() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if _initialized() else 1


def is_main_process() -> bool:
    """True on rank 0."""
    return get_rank() == 0


def _control_group() -> Any:
    """A group of all ranks for objects and for waiting: over CPUs (gloo), and patient.

    The default group's timeout is made for the steps of training; a wait for rank 0's scoring may
    be longer. The first call makes the group, on all ranks.
    """
    world = dist.group.WORLD
    if world not in _CONTROL:
        _CONTROL.clear()  # of a group that is gone
        _CONTROL[world] = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return _CONTROL[world]


def synchronize() -> None:
    """Wait for every process, however long it takes; an error names those that are gone."""
    if get_world_size() > 1:
        dist.monitored_barrier(_control_group(), timeout=_PATIENCE, wait_all_ranks=True)


def all_gather(data: Any) -> list[Any]:
    """Return [data of rank 0, data of rank 1, ...] on every rank; `data` must pickle."""
    if get_world_size() == 1:
        return [data]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, data, group=_control_group())
    return gathered


def gather(data: Any, dst: int = 0) -> list[Any]:
    """Return the data of all ranks on rank `dst`, [] on the others."""
    if get_world_size() == 1:
        return [data]
    gathered = [None] * get_world_size() if get_rank() == dst else None
    dist.gather_object(data, gathered, dst=dst, group=_control_group())
    return gathered if gathered is not None else []


def gather_list(items: list[Any], chunk: int = 20_000) -> list[Any]:
    """Return the lists of all ranks joined in their order on rank 0, [] on the others.

    At most `chunk` items of each rank travel at once, so that memory stays bounded.
    """
    if get_world_size() == 1:
        return items
    joined: list[list[Any]] = [[] for _ in range(get_world_size())]
    for index in range(max(all_gather(math.ceil(len(items) / chunk)))):
        parts = gather(items[index * chunk : (index + 1) * chunk])
        for whole, part in zip(joined, parts, strict=False):
            whole.extend(part)
    return [item for whole in joined for item in whole]


def all_reduce(tensor: Tensor, op: str = "sum") -> Tensor:
    """Return `tensor` reduced over the ranks ("sum" or "mean"); alone, `tensor` itself."""
    if op not in ("sum", "mean"):
        raise ValueError(f"all_reduce: op must be 'sum' or 'mean', got {op!r}.")
    world_size = get_world_size()
    if world_size == 1:
        return tensor
    reduced = tensor.clone()
    dist.all_reduce(reduced)
    return reduced / world_size if op == "mean" else reduced


def reduce_dict(values: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Reduce a dict of scalars over the ranks; all ranks must hold the same keys."""
    if get_world_size() == 1:
        return values
    names = sorted(values)
    with torch.no_grad():
        stacked = torch.stack([values[name].detach().float() for name in names])
        reduced = all_reduce(stacked, "mean" if average else "sum")
    return dict(zip(names, reduced, strict=True))


def shared_random_seed() -> int:
    """Return one random seed, the same on all ranks."""
    seed = int.from_bytes(os.urandom(4), "little")
    return all_gather(seed)[0]
