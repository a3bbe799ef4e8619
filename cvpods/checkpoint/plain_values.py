"""Stand-ins for the arrays, types and containers that a pickle names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cvpods.checkpoint.pickle_instructions import PlainPickleError


def _describe(value: Any) -> str:
    """Return a short value for a message; for a container or a long text, its type."""
    if isinstance(value, (str, bytes, int, float, type(None))) and len(repr(value)) < 60:
        return repr(value)
    return f"a {type(value).__name__}"


class PlainDtype:
    """Stand-in for a pickled numpy.dtype: a code such as "f4", and the order of its bytes."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([biu?]\d?|f\d|[SU]\d+)", code):
            raise PlainPickleError(f"it holds an array of dtype {_describe(code)}, not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Set the order of the bytes from (version, order, ...)."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise PlainPickleError(f"it holds a dtype of the byte order {_describe(order)}")
        self.dtype = self.dtype.newbyteorder(order) if order != "|" else self.dtype


class PlainArray:
    """Stand-in for a pickled numpy.ndarray; `array` is None until its state is set.

    Both attributes are declared in the class, because torch's reader makes objects without calling
    __init__.
    """

    array: np.ndarray | None = None
    tensor: torch.Tensor | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Set the array from (version, shape, dtype, is_fortran, raw bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise PlainPickleError("it holds an array without shape, dtype and bytes")
        _, shape, dtype, is_fortran, raw = state
        self.set_bytes(raw, dtype, shape, "F" if is_fortran else "C")

    def set_bytes(self, raw: Any, dtype: Any, shape: Any, order: Any) -> None:
        """Set the array from its raw bytes.

        Raises:
            PlainPickleError: the values are not of the right types, or do not fit together.
        """
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


def _make_array(raw: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> PlainArray:
    """Return the array that numpy's _frombuffer would make.

    Args:
        axes: order of the axes. numpy >= 2.3 writes the bytes of a strided array as they lie in
            memory, together with this order.
    """
    made = PlainArray()
    made.set_bytes(raw, dtype, shape, order)
    if axes is not None and made.array is not None:
        made.array = made.array.transpose(axes)
    return made


def _make_scalar(dtype: Any, raw: Any) -> Any:
    array = _make_array(raw, dtype, ()).array
    assert array is not None
    return array.item()


def _make_bytes(text: Any, encoding: Any) -> bytes:
    """Return the bytes that a pickle for Python 2 makes by calling _codecs.encode."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise PlainPickleError(f"it encodes a {type(text).__name__} as {_describe(encoding)}")
    return text.encode("latin1")


def _make_dict(pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)):
        raise PlainPickleError(f"it makes a dict of a {type(pairs).__name__}")
    made: dict[Any, Any] = {}
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise PlainPickleError("it makes a dict of something else than pairs")
        made[plain_key(pair[0])] = pair[1]
    return made


def _make_set(members: Any = ()) -> set[Any]:
    if not isinstance(members, (list, tuple)):
        raise PlainPickleError(f"it makes a set of a {type(members).__name__}")
    return {plain_key(member) for member in members}


def _make_empty_bytes() -> bytes:
    return b""


def plain_key(value: Any) -> Any:
    """Return a key of a dict, or a member of a set, after checking that it is simple.

    A nested key could take any depth to hash, and a long one is compared again each time that it is
    used.

    Raises:
        PlainPickleError: the value is not a text, bytes, a number or None, or is too long.
    """
    if not isinstance(value, (str, bytes, int, float, type(None))):
        raise PlainPickleError(f"it has a {type(value).__name__} as the key of a dict")
    size = value.bit_length() if isinstance(value, int) else 0
    size += len(value) if isinstance(value, (str, bytes)) else 0
    if size > 10_000:
        raise PlainPickleError(f"it has a long {type(value).__name__} as the key of a dict")
    return value


def as_tensor(value: Any) -> Any:
    """Return the tensor of a pickled array of numbers; return any other value as it is.

    Each array has one tensor, which every call returns.
    """
    if not isinstance(value, PlainArray) or value.array is None:
        return value
    array = value.array
    if array.dtype.kind not in "fiub":
        return value
    if value.tensor is None:
        native = array.astype(array.dtype.newbyteorder("="), copy=True)
        value.tensor = torch.from_numpy(native)
    return value.tensor


# {name that a pickle may call: function or class that replaces it}
CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _make_dict,
    "_codecs.encode": _make_bytes,
    "numpy.dtype": PlainDtype,
}
for _builtin in ("__builtin__", "builtins"):  # Python 2, Python 3
    CONSTRUCTORS[f"{_builtin}.bytes"] = _make_empty_bytes
    CONSTRUCTORS[f"{_builtin}.set"] = CONSTRUCTORS[f"{_builtin}.frozenset"] = _make_set
for _core in ("numpy.core", "numpy._core"):  # numpy < 2, numpy >= 2
    CONSTRUCTORS[f"{_core}.multiarray._reconstruct"] = PlainArray
    CONSTRUCTORS[f"{_core}.multiarray.scalar"] = _make_scalar
    CONSTRUCTORS[f"{_core}.numeric._frombuffer"] = _make_array
# A pickle may name numpy.ndarray only as an argument of _reconstruct. Calling it is refused.
NAMES = {*CONSTRUCTORS, "numpy.ndarray"}
