"""A DataLoader whose workers can be started by fork, forkserver or spawn."""

from __future__ import annotations

import functools
import importlib
import inspect
import multiprocessing
import pickle
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from cvpods.utils.errors import ConfigError
from cvpods.utils.handles import end_worker_without_handles
from cvpods.utils.logger import log_settings, setup_logger
from cvpods.utils.stop import STOP_SIGNALS, shield_worker

# Modules of an experiment's folder, see load_experiment(): what they register at import, workers
# need too.
_OF_EXPERIMENTS = ("config", "net")
# What pickle raises for an object that cannot be sent.
_NOT_SENT = (pickle.PicklingError, AttributeError, TypeError, RecursionError)


def worker_init_reset_seed(worker_id: int) -> None:
    """Prepare a loader's worker: signals, and a seed (training samples have seeds of their own, see
    SeededDataset).
    """
    shield_worker()
    end_worker_without_handles()
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


class WorkerStart:
    """Preparation of a worker; it travels from the training process to the worker.

    A forked worker has the log and the modules of its parent. Another one starts with neither: it
    writes to the same log, and imports the experiment, so that what this registers is there.
    """

    def __init__(self) -> None:
        self.log = log_settings()
        self.modules = [name for name in _OF_EXPERIMENTS if name in sys.modules]

    def __call__(self, worker_id: int) -> None:
        if self.log != log_settings():
            setup_logger(*self.log)
        for name in self.modules:
            importlib.import_module(name)
        worker_init_reset_seed(worker_id)
        if hasattr(signal, "pthread_sigmask") and not hasattr(signal, "sigwaitinfo"):  # macOS
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


class Loader(DataLoader):
    """A DataLoader that says which object cannot be sent to a worker.

    Signals to stop reach its workers only when these are ready for them.
    """

    def __init__(self, dataset: Any, **kwargs: Any) -> None:
        super().__init__(dataset, worker_init_fn=WorkerStart(), **kwargs)

    def __iter__(self) -> Iterator[Any]:
        method = multiprocessing.get_start_method() if self.num_workers else "fork"
        if method == "forkserver":
            # The server imports it once, instead of every worker.
            multiprocessing.set_forkserver_preload(["__main__", __name__])
        try:
            with _stop_signals_held(method):
                return super().__iter__()
        except _NOT_SENT as error:
            found = find_unsendable(self.dataset, "dataset") if self.num_workers else None
            if found is None:
                raise
            raise ConfigError(_describe(*found)) from error


@contextmanager
def _stop_signals_held(method: str) -> Iterator[None]:
    """Inside, processes start with the signals blocked; this one gets them afterwards.

    Args:
        method: by which the processes start. All but "fork" need Python's resource tracker, whose
            start unblocks SIGTERM and SIGINT (seen in Python 3.11); so it is started here first.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if method != "fork":
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- what cannot be sent ---------------------------------------------------------------------------


def find_unsendable(obj: Any, path: str, seen: set[int] | None = None) -> tuple[Any, str] | None:
    """Return the innermost object that cannot be pickled and the path to it, or None."""
    seen = set() if seen is None else seen
    if id(obj) in seen or _can_be_sent(obj):
        return None
    seen.add(id(obj))
    for child, step in _children(obj):
        if found := find_unsendable(child, path + step, seen):
            return found
    return obj, path


def _can_be_sent(obj: Any) -> bool:
    try:
        ForkingPickler.dumps(obj)
    except Exception:  # an object may raise anything here
        return False
    return True


def _children(obj: Any) -> Iterator[tuple[Any, str]]:
    if isinstance(obj, dict):
        yield from ((value, f"[{key!r}]") for key, value in obj.items())
    elif isinstance(obj, (list, tuple, set, frozenset)):
        yield from ((value, f"[{index}]") for index, value in enumerate(obj))
    elif isinstance(obj, functools.partial):
        yield from ((obj.func, ".func"), (obj.args, ".args"), (obj.keywords, ".keywords"))
    elif inspect.ismethod(obj):
        yield obj.__self__, ".__self__"
    elif not inspect.isfunction(obj) and not inspect.isclass(obj):
        yield from ((value, f".{name}") for name, value in getattr(obj, "__dict__", {}).items())


def _describe(obj: Any, path: str) -> str:
    method = multiprocessing.get_start_method()
    return (
        f"{_name(obj)} cannot be sent to the workers of a loader, which {method} starts here: it "
        f"is {path}. Define it by def or class at the top level of a file of the experiment, or "
        "load the images in the main process: DATALOADER.NUM_WORKERS 0."
    )


def _name(obj: Any) -> str:
    """Return what an object is called, and the file that it comes from."""
    if inspect.isfunction(obj):
        code = obj.__code__
        return (
            f"The function {obj.__qualname__} of {Path(code.co_filename).name}, line "
            f"{code.co_firstlineno},"
        )
    kind = obj if inspect.isclass(obj) else type(obj)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    where = Path(file).name if file else f"the module {kind.__module__}"
    what = "The class" if inspect.isclass(obj) else "An object of the class"
    return f"{what} {kind.__qualname__} of {where}"
