"""Start one process per device, on one or several machines, with torch's elastic launcher."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist

from cvpods.engine.machines import Place, meet
from cvpods.engine.worker import run_alone, run_worker
from cvpods.utils.env import check_gpus, has_gpus
from cvpods.utils.errors import ConfigError, PodsError
from cvpods.utils.stop import STOP_SIGNALS, Stopped

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_Result = TypeVar("_Result")


class WorkersFailed(PodsError):  # noqa: N818 - reads better than WorkersFailedError
    """A process ended with an error, which it has printed itself."""


def launch(
    main_func: Callable[..., _Result],
    num_gpus_per_machine: int | None = None,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    max_restarts: int = 0,
    num_processes: int | None = None,
    wait_minutes: float = 10.0,
) -> _Result:
    """Call main_func(*args) in every process, with a process group even if there is only one.

    Args:
        main_func: a module-level function.
        num_gpus_per_machine: processes on this machine, one per GPU. None takes all GPUs, or one
            process on the CPU of a machine without GPUs. 0 is one process on the CPU. As in cvpods,
            a machine without GPUs runs that many processes on the CPU; the commands refuse it.
        dist_url: "tcp://host:port" of machine 0; None or "auto" picks a port of this machine.
        max_restarts: how many times all processes are started again after one has failed; see
            restart_count().
        num_processes: processes on the CPU of this machine, instead of GPUs.
        wait_minutes: how long the machines wait for each other at the start.

    Returns:
        The return value of main_func in this machine's first process.

    Raises:
        ConfigError: an argument that cannot be used, for example more processes than GPUs.
        MeetingFailed: the machines did not find each other, or dist_url's port is in use.
        WorkersFailed: a process failed, and restarts are used up.
        Stopped: a signal came to this process or to those that it started; they have ended.
    """
    count = _count_processes(num_gpus_per_machine, num_processes)
    _check_machines(num_machines, machine_rank, dist_url)
    _check_limits(max_restarts, wait_minutes)
    on_cpu = num_processes is not None or num_gpus_per_machine == 0 or not has_gpus()
    if count * num_machines == 1 and max_restarts == 0:
        return run_alone(main_func, args, on_cpu)
    from cvpods.engine.elastic import launch_config, pass_stop_signals_on, prepare_torch

    place = Place(*_endpoint(dist_url, num_machines), num_machines, wait_minutes)
    store = meet(place, machine_rank)
    config = launch_config(count, place, machine_rank, max_restarts)
    prepare_torch()
    pass_stop_signals_on()
    try:
        return _run_group(config, main_func, args, on_cpu)
    finally:
        del store  # served until here: torch's launchers use its server


def _run_group(
    config: LaunchConfig, main_func: Callable[..., _Result], args: tuple, cpu: bool
) -> _Result:
    """Run the processes of this machine; translate torch's errors."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    try:
        results = elastic_launch(config, run_worker)(main_func, args, cpu)
        return results[min(results)]
    except SignalException as error:
        raise Stopped(int(error.sigval)) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode - 128 in STOP_SIGNALS:
            raise Stopped(failure.exitcode - 128) from None
        how = _describe_exit(failure.exitcode)
        raise WorkersFailed(
            f"Process {rank} failed first ({how}); see its message above."
        ) from None
    except (RendezvousError, dist.DistError) as error:
        raise WorkersFailed(
            f"This machine lost the others of the run at {config.rdzv_endpoint}: machine 0 ended, "
            "the network failed, or a restarted group was not complete in time "
            f"({type(error).__name__}). See the messages of the other machines; --resume continues "
            "from the last checkpoint."
        ) from None


def _describe_exit(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _count_processes(num_gpus: int | None, num_processes: int | None) -> int:
    """Return the number of processes on this machine.

    Raises:
        ConfigError: fewer GPUs, both arguments at once, or a number below 1.
    """
    if num_processes is None:
        if num_gpus is None:
            num_gpus = torch.cuda.device_count()
        if has_gpus():
            check_gpus(num_gpus)
        return max(num_gpus, 1)
    if num_gpus:
        raise ConfigError(
            f"--num-processes {num_processes} is for the CPU: leave --num-gpus {num_gpus} out."
        )
    if num_processes < 1:
        raise ConfigError(f"--num-processes must be at least 1; got {num_processes}.")
    return num_processes


def _check_machines(num_machines: int, machine_rank: int, dist_url: str | None) -> None:
    if num_machines < 1:
        raise ConfigError(f"--num-machines must be at least 1; got {num_machines}.")
    if num_machines > 1 and dist_url in (None, "auto"):
        raise ConfigError(
            "--num-machines > 1 needs --dist-url tcp://<address of machine 0>:<port>."
        )
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(f"--machine-rank must be in [0, {num_machines}); got {machine_rank}.")


def _check_limits(max_restarts: int, wait_minutes: float) -> None:
    if max_restarts < 0:
        raise ConfigError(f"--max-restarts must be at least 0; got {max_restarts}.")
    if not 0 < wait_minutes < 1e6:
        raise ConfigError(f"--wait-minutes must be a number above 0; got {wait_minutes}.")


def _endpoint(dist_url: str | None, num_machines: int) -> tuple[str, int]:
    """Return host and port of machine 0; a run on one machine uses localhost."""
    if dist_url in (None, "auto"):
        return "localhost", _free_port()
    host, _, port = str(dist_url).removeprefix("tcp://").rpartition(":")
    if not host or "/" in host or not re.fullmatch("[0-9]{1,5}", port):
        raise ConfigError(f"--dist-url must look like tcp://host:port; got {dist_url!r}.")
    if not 0 < int(port) < 65536:
        raise ConfigError(f"--dist-url: the port must be in [1, 65535]; got {port}.")
    host = host.removeprefix("[").removesuffix("]")  # IPv6
    return (host if num_machines > 1 else "localhost"), int(port)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
