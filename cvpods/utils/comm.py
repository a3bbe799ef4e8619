"""Thin helpers over torch.distributed that also work without a process group."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DataParallel, DistributedDataParallel

DDP_TYPES = (DistributedDataParallel,)
DP_TYPES = (DataParallel, DistributedDataParallel)


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


def synchronize() -> None:
    """Wait for every process."""
    if get_world_size() > 1:
        dist.barrier()


def all_gather(data: Any) -> list[Any]:
    """Return [data of rank 0, data of rank 1, ...] on every rank; `data` must pickle."""
    if get_world_size() == 1:
        return [data]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, data)
    return gathered


def gather(data: Any, dst: int = 0) -> list[Any]:
    """Return the data of all ranks on rank `dst`, [] on the others."""
    if get_world_size() == 1:
        return [data]
    gathered = [None] * get_world_size() if get_rank() == dst else None
    dist.gather_object(data, gathered, dst=dst)
    return gathered if gathered is not None else []


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
