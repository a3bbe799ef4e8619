"""Description of the machine and its devices, and state of the random generators."""

from __future__ import annotations

import os
import platform
import random
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from tabulate import tabulate
from torch import Tensor

from cvpods.utils.errors import ConfigError


def seed_all_rng(seed: int | None = None) -> int:
    """Seed Python, numpy and torch, and return the seed; None draws a random one."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little") % 2**31
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return seed


def get_rng_state() -> dict[str, Any]:
    """Return the states of all random generators.

    They are tensors, numbers and tuples, which torch.load reads with `weights_only`.
    """
    name, keys, position, has_gauss, cached = np.random.get_state()
    numbers = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, numbers, position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore the states that get_rng_state() returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def get_torch_rng_state() -> list[Tensor]:
    """Return the states of torch's generators, the CPU's first. Forward passes draw from these."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def set_torch_rng_state(states: Sequence[Tensor]) -> None:
    """Restore the states that get_torch_rng_state() returned; skip that of a missing GPU."""
    torch.set_rng_state(states[0].cpu())
    if len(states) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[1].cpu())


def collect_env_info() -> str:
    """Return a table of versions and devices for the log."""
    rows = [
        ("python", sys.version.split()[0]),
        ("platform", platform.platform()),
        ("torch", torch.__version__),
        ("torchvision", metadata.version("torchvision")),
        ("numpy", np.__version__),
        ("CPU threads", torch.get_num_threads()),
        ("CUDA", torch.version.cuda if torch.cuda.is_available() else "not available"),
    ]
    rows += [(f"GPU {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    return tabulate(rows)


def processor(device: str = "cpu") -> str:
    """Return the name of a GPU, or of the CPU with the number of its cores, for people."""
    if device != "cpu":
        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else device
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line.partition(":") for line in cpuinfo.read_text(encoding="utf-8").splitlines()]
        name = next((v.strip() for key, _, v in lines if key.strip() == "model name"), name)
    return f"{name}, {os.cpu_count()} cores"


def has_gpus() -> bool:
    """Return True if torch can use a CUDA GPU of this machine."""
    return torch.cuda.is_available() and torch.cuda.device_count() > 0


def check_gpus(count: int) -> None:
    """Check that this machine has `count` CUDA GPUs; 0 stands for the CPU.

    Raises:
        ConfigError: the machine has fewer GPUs, or the number is negative.
    """
    found = torch.cuda.device_count() if has_gpus() else 0
    if count < 0:
        raise ConfigError(f"--num-gpus must be 0 or more; got {count}.")
    if count > found == 0:
        raise ConfigError(
            f"--num-gpus {count} needs a CUDA GPU, and this machine has none that torch "
            f"{torch.__version__} can use. For the CPU, write --num-gpus 0 or leave it out."
        )
    if count > found:
        raise ConfigError(
            f"--num-gpus {count}: this machine has {found}. Write --num-gpus {found} or less."
        )


def select_device(requested: str = "cuda") -> str:
    """Return `requested`, or log a line and return "cpu" if CUDA is requested but not available.

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
    """
    try:
        device = torch.device(requested)
        if device.type == "cuda" and not torch.cuda.is_available():
            logger.info(
                f"MODEL.DEVICE {requested}: CUDA is not available here; running on the CPU."
            )
            return "cpu"
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise ConfigError(
            f"MODEL.DEVICE {requested!r} cannot be used: {reason}. Use 'cuda', 'cuda:1' or 'cpu'."
        ) from None
    return requested
