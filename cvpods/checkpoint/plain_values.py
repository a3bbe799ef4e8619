"""What stands for the arrays, types and containers that a pickle names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cvpods.checkpoint.pickle_instructions import PlainPickleError


def _short(value: Any) -> str:
    """A value for a message; of containers and long texts only what they are."""
    if isinstance(value, (str, bytes, int, float, type(None))) and len(repr(value)) < 60:
        return repr(value)
    return f"a {type(value).__name__}"


class PlainDtype:
    """What numpy.dtype pickles as: a code such as "f4", and the order of its bytes."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([biu?]\d?|f\d|[SU]\d+)", code):
            raise PlainPickleError(f"it holds an array of dtype {_short(code)}, not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise PlainPickleError(f"it holds a dtype of the byte order {_short(order)}")
        self.dtype = self.dtype.newbyteorder(order) if order != "|" else self.dtype


class PlainArray:
    """What numpy.ndarray pickles as; `array` is None until its state has come.

    Both stand at the class: torch's reader also makes objects without calling __init__.
    """

    array: np.ndarray | None = None
    tensor: torch.Tensor | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """state: (version, shape, dtype, is_fortran, raw bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise PlainPickleError("it holds an array without shape, dtype and bytes")
        _, shape, dtype, is_fortran, raw = state
        self.set_bytes(raw, dtype, shape, "F" if is_fortran else "C")

    def set_bytes(self, raw: Any, dtype: Any, shape: Any, order: Any) -> None:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(raw, (bytes, bytearray)) or not isinstance(dtype, PlainDtype):
            raise PlainPickleError("it holds an array whose content is not bytes of a dtype")
        if not isinstance(shape, tuple) or not all(
            type(n) is int and 0 <= n < 2**63 for n in shape
        ):
            raise PlainPickleError("it holds an array whose shape is not a tuple of numbers")
        if len(shape) > 8:
            raise PlainPickleError(f"it holds an array of {len(shape)} dimensions")
        expected = math.prod(shape) * dtype.dtype.itemsize
        if expected != len(raw):
            raise PlainPickleError(
                f"it holds an array of the shape {shape} and {len(raw)} bytes, not {expected}"
            )
        flat = np.frombuffer(raw, dtype.dtype) if raw else np.empty(0, dtype.dtype)
        self.array = flat.reshape(shape, order="F" if order == "F" else "C")


def _from_buffer(
    raw: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None
) -> PlainArray:
    """axes: numpy >= 2.3 writes the bytes of an array in steps as they lie, and how to turn it."""
    made = PlainArray()
    made.set_bytes(raw, dtype, shape, order)
    if axes is not None and made.array is not None:
        made.array = made.array.transpose(axes)
    return made


def _scalar(dtype: Any, raw: Any) -> Any:
    array = _from_buffer(raw, dtype, ()).array
    assert array is not None
    return array.item()


def _encode(text: Any, encoding: Any) -> bytes:
    """What pickles of bytes for Python 2 call as _codecs.encode."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise PlainPickleError(f"it encodes a {type(text).__name__} as {_short(encoding)}")
    return text.encode("latin1")


def _dict(pairs: Any = ()) -> dict:
    if not isinstance(pairs, (list, tuple)):
        raise PlainPickleError(f"it makes a dict of a {type(pairs).__name__}")
    made: dict = {}
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise PlainPickleError("it makes a dict of something else than pairs")
        made[plain_key(pair[0])] = pair[1]
    return made


def _set(members: Any = ()) -> set:
    if not isinstance(members, (list, tuple)):
        raise PlainPickleError(f"it makes a set of a {type(members).__name__}")
    return {plain_key(member) for member in members}


def _empty_bytes() -> bytes:
    return b""


def plain_key(value: Any) -> Any:
    """A key of a dict or member of a set; others could take any depth to hash."""
    if not isinstance(value, (str, bytes, int, float, type(None))):
        raise PlainPickleError(f"it has a {type(value).__name__} as the key of a dict")
    size = value.bit_length() if isinstance(value, int) else 0
    size += len(value) if isinstance(value, (str, bytes)) else 0
    if size > 10_000:  # one that is used again and again is compared again and again
        raise PlainPickleError(f"it has a long {type(value).__name__} as the key of a dict")
    return value


def as_tensor(value: Any) -> Any:
    """A tensor of a pickled array of numbers, one however often it is asked for; anything else as
    it is."""
    if not isinstance(value, PlainArray) or value.array is None:
        return value
    array = value.array
    if array.dtype.kind not in "fiub":
        return value
    if value.tensor is None:
        native = array.astype(array.dtype.newbyteorder("="), copy=True)
        value.tensor = torch.from_numpy(native)
    return value.tensor


# What a pickle may name, and what stands for it.
CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "_codecs.encode": _encode,
    "numpy.dtype": PlainDtype,
}
for _builtin in ("__builtin__", "builtins"):  # Python 2, Python 3
    CONSTRUCTORS[f"{_builtin}.bytes"] = _empty_bytes
    CONSTRUCTORS[f"{_builtin}.set"] = CONSTRUCTORS[f"{_builtin}.frozenset"] = _set
for _core in ("numpy.core", "numpy._core"):  # numpy < 2, numpy >= 2
    CONSTRUCTORS[f"{_core}.multiarray._reconstruct"] = PlainArray
    CONSTRUCTORS[f"{_core}.multiarray.scalar"] = _scalar
    CONSTRUCTORS[f"{_core}.numeric._frombuffer"] = _from_buffer
# Named only as an argument of _reconstruct; to call it is refused.
NAMES = {*CONSTRUCTORS, "numpy.ndarray"}
