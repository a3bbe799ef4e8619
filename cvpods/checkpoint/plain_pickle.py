"""Pickles read as data: numpy arrays, containers, strings and numbers.

A pickle is a program for a stack machine. This machine knows the instructions that build plain
values; it cannot import and cannot call anything but the few constructors in CONSTRUCTORS, which
stand for numpy's and make PlainArray, never an object that the file chooses.
"""

from __future__ import annotations

import codecs
import io
import math
import pickletools
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import torch


class PlainPickleError(ValueError):
    """The pickle is damaged, or asks for more than plain values."""


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
        made[_key(pair[0])] = pair[1]
    return made


def _set(members: Any = ()) -> set:
    if not isinstance(members, (list, tuple)):
        raise PlainPickleError(f"it makes a set of a {type(members).__name__}")
    return {_key(member) for member in members}


def _empty_bytes() -> bytes:
    return b""


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


class _Name:
    """A name that the pickle may call, or hand to what it calls."""

    def __init__(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PlainPickleError("it is damaged: a name that is no text")
        self.text = f"{module[:60]}.{name[:60]}"
        if self.text not in NAMES:
            printable = self.text.isprintable()
            raise PlainPickleError(f"it asks for {self.text if printable else ascii(self.text)}")


def _key(value: Any) -> Any:
    """A key of a dict or member of a set; others could take any depth to hash."""
    if not isinstance(value, (str, bytes, int, float, type(None))):
        raise PlainPickleError(f"it has a {type(value).__name__} as the key of a dict")
    size = value.bit_length() if isinstance(value, int) else 0
    size += len(value) if isinstance(value, (str, bytes)) else 0
    if size > 10_000:  # one that is used again and again is compared again and again
        raise PlainPickleError(f"it has a long {type(value).__name__} as the key of a dict")
    return value


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Instructions whose argument is the value.
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8".split()
)
_WITHOUT_EFFECT = frozenset({"PROTO", "FRAME"})
_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
_MAX_DEPTH = 1000


class _Machine:
    """Runs a pickle's instructions; op_NAME is the instruction NAME.

    Args:
        budget: bytes and members that constructors may take in all: one file cannot unfold to many
            times its size.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.push(argument)
        elif name in _CONSTANTS:
            self.push(_CONSTANTS[name])
        elif name in _EMPTY:
            self.push(_EMPTY[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(self.stack) < count:
                raise PlainPickleError("it is damaged: values are missing")
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name not in _WITHOUT_EFFECT:
            method = getattr(self, f"op_{name.lower()}", None)
            if method is None:
                raise PlainPickleError(f"its instruction {name} makes more than plain values")
            method(argument)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise PlainPickleError(f"it uses a {type(self.stack[-1]).__name__} as {kind.__name__}")
        return self.stack[-1]

    def until_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marked.pop()
        return values

    # -- the stack and its memo

    def op_mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def op_pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.until_mark()

    def op_pop_mark(self, _: Any) -> None:
        self.until_mark()

    def op_dup(self, _: Any) -> None:
        self.push(self.stack[-1])

    def op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_put(self, index: Any) -> None:
        self.memo[index] = self.stack[-1]

    def op_get(self, index: Any) -> None:
        self.push(self.memo[index])

    op_binput = op_long_binput = op_put
    op_binget = op_long_binget = op_get

    # -- containers

    def op_append(self, _: Any) -> None:
        value = self.stack.pop()
        self.top(list).append(value)

    def op_appends(self, _: Any) -> None:
        values = self.until_mark()
        self.top(list).extend(values)

    def op_additems(self, _: Any) -> None:
        values = self.until_mark()
        self.top(set).update(_key(value) for value in values)

    def op_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.top(dict)[_key(key)] = value

    def op_setitems(self, _: Any) -> None:
        values = self.until_mark()
        self.top(dict).update(self.pairs(values))

    def op_list(self, _: Any) -> None:
        self.push(self.until_mark())

    def op_tuple(self, _: Any) -> None:
        self.push(tuple(self.until_mark()))

    def op_dict(self, _: Any) -> None:
        self.push(self.pairs(self.until_mark()))

    def op_frozenset(self, _: Any) -> None:
        self.push(frozenset(_key(value) for value in self.until_mark()))

    @staticmethod
    def pairs(values: Any) -> Any:
        if len(values) % 2:
            raise PlainPickleError("it is damaged: a key without a value")
        return {_key(k): v for k, v in zip(values[::2], values[1::2], strict=True)}

    # -- names and what they make

    def op_global(self, argument: Any) -> None:
        self.push(_Name(*argument.split(" ", 1)))

    def op_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push(_Name(module, name))

    def op_reduce(self, _: Any) -> None:
        arguments = self.stack.pop()
        name = self.stack.pop()
        if not isinstance(name, _Name) or name.text not in CONSTRUCTORS:
            text = name.text if isinstance(name, _Name) else f"a {type(name).__name__}"
            raise PlainPickleError(f"it calls {text}")
        if not isinstance(arguments, tuple):
            raise PlainPickleError(f"it calls {name.text} without arguments")
        self.spend(arguments)
        try:
            self.push(CONSTRUCTORS[name.text](*arguments))
        except TypeError as error:
            raise PlainPickleError(f"it calls {name.text} wrongly") from error

    def op_build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, (PlainArray, PlainDtype)):
            if isinstance(state, tuple):
                self.spend(state)
            target.__setstate__(state)
        elif not isinstance(target, dict):  # attributes of an OrderedDict are left out
            raise PlainPickleError(f"it changes a {type(target).__name__}")

    def spend(self, values: Any) -> None:
        kinds = (str, bytes, bytearray, list, tuple)
        self.budget -= sum(len(v) for v in values if isinstance(v, kinds))
        if self.budget < 0:
            raise PlainPickleError("it makes more than it holds")


def _text_of_python_2(line: bytes) -> str:
    """The argument of STRING; pickletools reads none with bytes above 127."""
    line = line.rstrip(b"\r\n")
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise PlainPickleError("it is damaged: a text without quotes")
    decoded, _ = codecs.escape_decode(line[1:-1])
    assert isinstance(decoded, bytes)
    return decoded.decode("latin1")


def _instructions(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """The instructions and their arguments, up to STOP."""
    while code := file.read(1):
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise PlainPickleError(f"it is damaged: there is no instruction {code!r}")
        if opcode.name == "STRING":
            yield opcode, _text_of_python_2(file.readline())
        else:
            yield opcode, None if opcode.arg is None else opcode.arg.reader(file)
        if opcode.name == "STOP":
            return
    raise PlainPickleError("it is damaged: it has no end")


_DAMAGES = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, SystemError)


def load_plain_pickle(data: bytes) -> Any:
    """The value of a pickle of protocol 0 - 5; arrays come as PlainArray.

    Raises:
        PlainPickleError: it is damaged, or asks for anything but plain values. The message goes on
            after "refused: ".
    """
    # Bytes of Python 2 go through text: once as text, once as bytes.
    machine = _Machine(budget=2 * len(data))
    try:
        for opcode, argument in _instructions(io.BytesIO(data)):
            if opcode.name != "STOP":
                machine.run(opcode.name, argument)
        return machine.stack.pop()
    except PlainPickleError:
        raise
    except _DAMAGES as error:  # SystemError: numpy, of texts that are no Unicode
        raise PlainPickleError(f"it is damaged ({str(error)[:200]})") from error


def check_torch_pickle(file: IO[bytes]) -> None:
    """Refuse what brings down the reader of torch, which admits only tensors but trusts in them.

    Tuples in tuples, many thousands deep, overflow the interpreter's stack when they are hashed as
    a key; bytearray(N) takes any memory at once.

    Raises:
        PlainPickleError: as load_plain_pickle.
    """
    stack: list[int] = []  # depths of tuples; -1 is a mark
    memo: dict[int, int] = {}
    try:
        for opcode, argument in _instructions(file):
            if opcode.name == "GLOBAL" and argument.split(" ", 1)[1] == "bytearray":
                raise PlainPickleError("it asks for bytearray")
            if "PUT" in opcode.name:
                memo[argument] = stack[-1]
            elif "GET" in opcode.name:
                stack.append(memo[argument])
            else:
                _follow(opcode, stack)
    except PlainPickleError:
        raise
    except _DAMAGES as error:
        raise PlainPickleError(f"it is damaged ({str(error)[:200]})") from error


def _follow(opcode: pickletools.OpcodeInfo, stack: list[int]) -> None:
    """Do to the stack of depths what `opcode` does to the stack of values."""
    before = opcode.stack_before
    deepest = -1
    if pickletools.markobject in before:
        while (depth := stack.pop()) >= 0:
            deepest = max(deepest, depth)
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        deepest = max(deepest, stack.pop())
    deepest = deepest + 1 if "TUPLE" in opcode.name else 0
    if deepest > _MAX_DEPTH:
        raise PlainPickleError(f"it has tuples in tuples, more than {_MAX_DEPTH} deep")
    mark = pickletools.markobject
    stack.extend(-1 if made is mark else deepest for made in opcode.stack_after)


def as_tensor(value: Any) -> Any:
    """A tensor of a pickled array of numbers, one however often it is asked for; anything else as
    it is."""
    if not isinstance(value, PlainArray) or value.array is None:
        return value
    array = value.array
    if array.dtype.kind not in "fiu":
        return value
    if value.tensor is None:
        native = array.astype(array.dtype.newbyteorder("="), copy=True)
        value.tensor = torch.from_numpy(native)
    return value.tensor
