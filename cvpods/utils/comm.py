"""Thin functions over torch.distributed that also work without a process group."""

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

# Longest time that a rank waits for another rank that still works, for example on the evaluation. A
# rank that died is noticed at once, because its connections close.
_PATIENCE = datetime.timedelta(days=1)
_CONTROL: dict[dist.ProcessGroup | None, Any] = {}


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Return the index of this process among all processes."""
    return dist.get_rank() if _initialized() else 0


def get_local_rank() -> int:
    """Return the index of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if _initialized() else 0


def get_local_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if _initialized() else 1


def is_main_process() -> bool:
    """Return True on rank 0."""
    return get_rank() == 0


def _control_group() -> dist.ProcessGroup:
    """Return the group of all ranks for objects and for waiting, which uses gloo on the CPU.

    The default group's timeout suits the steps of training; rank 0's evaluation may take longer.
    The first call makes the group; every rank must make it.
    """
    world = dist.group.WORLD
    if world not in _CONTROL:
        _CONTROL.clear()  # its group no longer exists
        _CONTROL[world] = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return _CONTROL[world]


def synchronize() -> None:
    """Wait for every process, up to a day. An error names the processes that are gone."""
    if get_world_size() > 1:
        dist.monitored_barrier(_control_group(), timeout=_PATIENCE, wait_all_ranks=True)


def all_gather(data: Any) -> list[Any]:
    """Return [data of rank 0, data of rank 1, ...] on every rank; `data` must be picklable."""
    if get_world_size() == 1:
        return [data]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, data, group=_control_group())
    return gathered


def gather(data: Any, dst: int = 0) -> list[Any]:
    """Return the data of all ranks on rank `dst`, and [] on the other ranks."""
    if get_world_size() == 1:
        return [data]
    gathered = [None] * get_world_size() if get_rank() == dst else None
    dist.gather_object(data, gathered, dst=dst, group=_control_group())
    return gathered if gathered is not None else []


def gather_list(items: list[Any], chunk: int = 20_000) -> list[Any]:
    """Return the lists of all ranks, joined in the order of ranks, on rank 0; [] on the others.

    Each rank sends at most `chunk` items at once, so that memory stays bounded.
    """
    if get_world_size() == 1:
        return items
    joined: list[list[Any]] = [[] for _ in range(get_world_size())]
    for index in range(max(all_gather(math.ceil(len(items) / chunk)))):
        parts = gather(items[index * chunk : (index + 1) * chunk])
        for items_of_rank, part in zip(joined, parts, strict=False):
            items_of_rank.extend(part)
    return [item for items_of_rank in joined for item in items_of_rank]


def all_reduce(tensor: Tensor, op: str = "sum") -> Tensor:
    """Return a new tensor reduced over the ranks ("sum" or "mean"); for one rank, `tensor` itself.

    Raises:
        ValueError: `op` is another one.
    """
    if op not in ("sum", "mean"):
        raise ValueError(f"all_reduce: op must be 'sum' or 'mean'; got {op!r}.")
    world_size = get_world_size()
    if world_size == 1:
        return tensor
    reduced = tensor.clone()
    dist.all_reduce(reduced)
    return reduced / world_size if op == "mean" else reduced


def reduce_dict(values: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Return a dict of scalars reduced over the ranks, which must all have the same keys.

    Args:
        average: return the mean over the ranks instead of the sum.
    """
    if get_world_size() == 1:
        return values
    names = sorted(values)
    with torch.no_grad():
        stacked = torch.stack([values[name].detach().float() for name in names])
        reduced = all_reduce(stacked, "mean" if average else "sum")
    return dict(zip(names, reduced, strict=True))


def shared_random_seed() -> int:
    """Return a random seed that is the same on all ranks."""
    seed = int.from_bytes(os.urandom(4), "little")
    return all_gather(seed)[0]
