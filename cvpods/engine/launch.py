"""Start one process per device, on one or several machines, through torch's elastic launcher."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cvpods.utils.errors import ConfigError, PodsError


class WorkersFailed(PodsError):  # noqa: N818 - reads better than WorkersFailedError
    """A process ended with an error, which it has printed itself."""


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int | None = None,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
) -> Any:
    """Call main_func(*args) in every process, with a process group, also when there is only one.

    Args:
        main_func: a module-level function.
        num_gpus_per_machine: processes on this machine; None is one per GPU, or one on the CPU.
            Without CUDA so many CPU processes train together; 0 is one process.
        dist_url: "tcp://host:port" of machine 0; None or "auto" picks a port of this machine.

    Returns:
        What main_func returned on this machine's first process.

    Raises:
        ConfigError: more processes than GPUs, or several machines without dist_url.
        WorkersFailed: a process failed.
    """
    gpus = torch.cuda.device_count()
    count = num_gpus_per_machine if num_gpus_per_machine is not None else gpus
    if gpus and count > gpus:
        raise ConfigError(f"--num-gpus {count}: this machine has {gpus}.")
    count = max(count, 1)
    if num_machines > 1 and dist_url in (None, "auto"):
        raise ConfigError(
            "--num-machines > 1 needs --dist-url tcp://<address of machine 0>:<port>."
        )
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(f"--machine-rank {machine_rank} must be in [0, {num_machines}).")
    if count * num_machines == 1:
        return _run_alone(main_func, args)
    config = _launch_config(count, num_machines, machine_rank, dist_url)
    try:
        results = elastic_launch(config, _run_worker)(main_func, args)
        return results[min(results)]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise WorkersFailed(
            f"Process {rank} failed first (exit status {failure.exitcode}); see its message above."
        ) from None


def _launch_config(
    count: int, num_machines: int, machine_rank: int, dist_url: str | None
) -> LaunchConfig:
    common = {
        "min_nodes": num_machines,
        "max_nodes": num_machines,
        "nproc_per_node": count,
        "run_id": "pods",
        "max_restarts": 0,
        "monitor_interval": 0.5,
        "start_method": "spawn",
    }
    if num_machines == 1:
        port = _free_port() if dist_url in (None, "auto") else _endpoint(dist_url)[1]
        endpoint, backend, configs = f"localhost:{port}", "c10d", {"is_host": True}
    else:
        host, port = _endpoint(dist_url)
        endpoint, backend = f"{host}:{port}", "static"
        configs = {"rank": machine_rank}
    return LaunchConfig(
        **common, rdzv_backend=backend, rdzv_endpoint=endpoint, rdzv_configs=configs
    )


def _endpoint(dist_url: str | None) -> tuple[str, int]:
    host, _, port = str(dist_url).removeprefix("tcp://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--dist-url must look like tcp://host:port, got {dist_url!r}.")
    return host, int(port)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _run_alone(main_func: Callable[..., Any], args: tuple) -> Any:
    """A process group of one, so that collective calls in user code work."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    started = not dist.is_initialized()
    if started:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        return main_func(*args)
    finally:
        if started:
            dist.destroy_process_group()


def _run_worker(main_func: Callable[..., Any], args: tuple) -> Any:
    """What each process of a launched group runs; the launcher has set RANK, WORLD_SIZE, ..."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(max((os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]), 1))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    result = main_func(*args)
    # Not after an error: waiting for the others here would hide which process failed first.
    dist.destroy_process_group()
    return result
