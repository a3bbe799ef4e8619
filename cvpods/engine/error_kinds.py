"""Recognition of errors by their text, where torch raises a plain RuntimeError."""

from __future__ import annotations

import torch

_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate", "CUDA error: out of memory")
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type without a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a GPU or of the machine is exhausted."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return _is_runtime_error(error, _OUT_OF_MEMORY)


def is_dead_worker(error: BaseException) -> bool:
    """Return whether a worker of a loader was killed, which a system short of memory does."""
    text = str(error)
    return isinstance(error, RuntimeError) and "DataLoader worker" in text and "pid" in text


def is_lost_peer(error: BaseException) -> bool:
    """Return whether a collective call failed because another process ended."""
    return _is_runtime_error(error, _LOST_PEER)


def _is_runtime_error(error: BaseException, signs: tuple[str, ...]) -> bool:
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)
