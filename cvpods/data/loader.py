"""DataLoader whose workers may be started by fork, forkserver or spawn."""

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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from cvpods.utils.errors import ConfigError
from cvpods.utils.handles import end_worker_without_handles
from cvpods.utils.logger import log_settings, setup_logger
from cvpods.utils.stop import STOP_SIGNALS, shield_worker

if TYPE_CHECKING:
    from cvpods.utils.torch_private import DataLoaderIterator

# Modules of an experiment's folder, see load_experiment(). Workers import them too, because they
# need the names that these modules register.
_OF_EXPERIMENTS = ("config", "net")
# Errors that pickle raises for an object that cannot be sent.
_NOT_SENT = (pickle.PicklingError, AttributeError, TypeError, RecursionError)


def worker_init_reset_seed(worker_id: int) -> None:
    """Prepare a loader's worker: its signals and its random seed.

    Training samples have seeds of their own, see SeededDataset.
    """
    shield_worker()
    end_worker_without_handles()
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


class WorkerStart:
    """Preparation of a worker, sent from the training process to the worker.

    A forked worker has the log and the modules of its parent. Any other worker starts with neither:
    it sets up the same log, and imports the experiment so that its names are registered.
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
    """DataLoader that names the object that cannot be sent to a worker.

    Stop signals reach its workers only after these are ready for them.
    """

    def __init__(self, dataset: Any, **kwargs: Any) -> None:
        super().__init__(dataset, worker_init_fn=WorkerStart(), **kwargs)

    def __iter__(self) -> DataLoaderIterator:
        method = multiprocessing.get_start_method() if self.num_workers else "fork"
        if method == "forkserver":
            # The server imports these modules once, instead of every worker.
            multiprocessing.set_forkserver_preload(["__main__", __name__])
        try:
            with _stop_signals_blocked(method):
                return super().__iter__()
        except _NOT_SENT as error:
            unsendable = find_unsendable(self.dataset, "dataset") if self.num_workers else None
            if unsendable is None:
                raise
            raise ConfigError(_describe_unsendable(*unsendable)) from error


@contextmanager
def _stop_signals_blocked(method: str) -> Iterator[None]:
    """Block the stop signals while processes start; this process receives them afterwards.

    Args:
        method: start method of the processes. All methods but "fork" need Python's resource
            tracker, whose start unblocks SIGTERM and SIGINT (seen in Python 3.11), so it is started
            here first.
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


# -- unsendable objects ----------------------------------------------------------------------------


def find_unsendable(obj: Any, path: str, seen: set[int] | None = None) -> tuple[Any, str] | None:
    """Return the innermost object that cannot be pickled and the path to it, or None."""
    seen = set() if seen is None else seen
    if id(obj) in seen or _can_be_sent(obj):
        return None
    seen.add(id(obj))
    for child, step in _children(obj):
        if unsendable := find_unsendable(child, path + step, seen):
            return unsendable
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


def _describe_unsendable(obj: Any, path: str) -> str:
    method = multiprocessing.get_start_method()
    return (
        f"{_name(obj)} cannot be sent to a loader's workers, which are started by {method}; it is "
        f"{path}. Define it by def or class at the top level of a file of the experiment, or "
        "load the images in the main process: DATALOADER.NUM_WORKERS 0."
    )


def _name(obj: Any) -> str:
    """Return the name of an object and the file that defines it."""
    if inspect.isfunction(obj):
        code = obj.__code__
        return (
            f"The function {obj.__qualname__} of {Path(code.co_filename).name}, line "
            f"{code.co_firstlineno},"
        )
    kind = obj if inspect.isclass(obj) else type(obj)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    where = Path(file).name if file else f"the module {kind.__module__}"
    noun = "The class" if inspect.isclass(obj) else "An object of the class"
    return f"{noun} {kind.__qualname__} of {where}"
