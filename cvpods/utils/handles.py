"""Open files: how many the loaders' workers need, and errors that say that there are too many."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading

from cvpods.utils.errors import ConfigError, PodsError

try:
    import resource
except ImportError:  # on Windows, which has no such limit
    resource = None  # type: ignore[assignment]

_SIGNS = ("Too many open files", "received 0 items of ancdata")
# What a process without loaders has open, and what it takes to start a worker.
_BASE, _PER_WORKER = 32, 8
# An image on its way from a worker: its pixels, boxes, classes, and one to spare; two batches each.
_PER_IMAGE = 8


def provide_handles(workers: int, images: int) -> None:
    """Raise this process' limit of open files to what a loader needs, as far as it may.

    Args:
        images: images that a worker loads at once.

    Raises:
        ConfigError: the workers cannot even be started.
    """
    if resource is None or workers == 0:
        return
    wanted = _BASE + workers * (_PER_WORKER + _PER_IMAGE * images)
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        with contextlib.suppress(ValueError, OSError):  # above a limit of the system's own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            now = wanted
    if 0 <= now < _BASE + workers * _PER_WORKER:
        raise ConfigError(describe_handles())
    _remember(now, _BASE + workers * (_PER_WORKER + _PER_IMAGE * images))


_SCARCE = False


def _remember(now: int, wanted: int) -> None:
    global _SCARCE
    _SCARCE = 0 <= now < wanted
    if _SCARCE:
        from loguru import logger

        logger.warning(f"About {wanted} files may be open at once. {describe_handles()}")


def scarce_handles() -> str:
    """Return a sentence for the error of a worker that died, when open files were scarce."""
    return f" Or: {describe_handles()}" if _SCARCE else ""


def is_out_of_handles(error: BaseException) -> bool:
    """Return whether an error, or one that it came from, says that too many files are open."""
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
    """Return what to do when too many files are open."""
    now = f" ({resource.getrlimit(resource.RLIMIT_NOFILE)[0]} now)" if resource else ""
    return (
        "Too many open files: each worker of a loader, and each image on its way from it, needs "
        f"some file handles. Allow more in this shell: ulimit -n 65536{now}, or use fewer workers: "
        "DATALOADER.NUM_WORKERS 1, or 0."
    )


def end_worker_without_handles() -> None:
    """In a loader's worker: end it when one of its threads is out of file handles.

    The thread that hands images over would end alone, with a traceback, and the training would
    wait for the images.
    """
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or not is_out_of_handles(args.exc_value):
            before(args)
            return
        print("A loader's worker has too many open files.", file=sys.stderr, flush=True)
        os._exit(1)

    threading.excepthook = hook
