"""Limit of open files that the loaders' workers need, and errors about too many open files."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading

from cvpods.utils.errors import ConfigError, PodsError

try:
    import resource
except ImportError:  # Windows does not have this limit
    resource = None  # type: ignore[assignment]

_SIGNS = ("Too many open files", "received 0 items of ancdata")
# Files that a process without loaders has open, and files that the start of a worker needs.
_BASE, _PER_WORKER = 32, 8
# Files of an image on its way from a worker: its pixels, boxes, classes and one spare, each for two
# batches.
_PER_IMAGE = 8


def raise_handle_limit(workers: int, images: int) -> None:
    """Raise this process' limit of open files to what a loader needs, as far as allowed.

    Args:
        images: number of images that a worker loads at once.

    Raises:
        ConfigError: the limit is too low to start the workers.
    """
    if resource is None or workers == 0:
        return
    needed = target = _BASE + workers * (_PER_WORKER + _PER_IMAGE * images)
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        target = min(target, most)
    if now != resource.RLIM_INFINITY and now < target:
        with contextlib.suppress(ValueError, OSError):  # the system has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, most))
            now = target
    if 0 <= now < _BASE + workers * _PER_WORKER:
        raise ConfigError(describe_handles())
    _record_scarcity(now, needed)


_scarce = False


def _record_scarcity(now: int, needed: int) -> None:
    """Remember whether the limit `now` is below the number of files that loaders need."""
    global _scarce
    _scarce = 0 <= now < needed
    if _scarce:
        from loguru import logger

        logger.warning(f"About {needed} files may be open at once. {describe_handles()}")


def scarcity_hint() -> str:
    """Return a sentence for the error of a dead worker if the limit is too low, otherwise ""."""
    return f" Or: {describe_handles()}" if _scarce else ""


def is_out_of_handles(error: BaseException) -> bool:
    """Return True if an error, or one of its causes, says that too many files are open."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.EMFILE, errno.ENFILE):
            return True
        known = isinstance(seen, (OSError, RuntimeError, PodsError))
        if known and any(sign in str(seen) for sign in _SIGNS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def describe_handles() -> str:
    """Return the advice for too many open files."""
    now = f" ({resource.getrlimit(resource.RLIMIT_NOFILE)[0]} now)" if resource else ""
    return (
        "Too many open files: each worker of a loader, and each image on its way from it, needs "
        f"some file handles. Allow more in this shell: ulimit -n 65536{now}, or use fewer workers: "
        "DATALOADER.NUM_WORKERS 1, or 0."
    )


def end_worker_without_handles() -> None:
    """Make a loader's worker end when one of its threads runs out of file handles.

    Otherwise, only the thread that sends images would end, with a traceback, and the training would
    wait for the images. Call this function in the worker.
    """
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or not is_out_of_handles(args.exc_value):
            before(args)
            return
        print("A loader's worker has too many open files.", file=sys.stderr, flush=True)
        os._exit(1)

    threading.excepthook = hook
