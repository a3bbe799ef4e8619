"""Reader of pickles as data: numpy arrays, containers, texts and numbers.

A pickle is a program for a stack machine. The machine in this module knows only the instructions
that build plain values. It cannot import, and it calls only the functions in CONSTRUCTORS. These
replace numpy's functions and make a PlainArray, never an object that the file chooses.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from cvpods.checkpoint.pickle_instructions import DAMAGES, PlainPickleError, read_instructions
from cvpods.checkpoint.plain_values import (
    CONSTRUCTORS,
    NAMES,
    PlainArray,
    PlainDtype,
    plain_key,
)


class _Name:
    """A name that a pickle may call, or pass to what it calls."""

    def __init__(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PlainPickleError("it is damaged: a name is not a text")
        self.text = f"{module[:60]}.{name[:60]}"
        if self.text not in NAMES:
            printable = self.text.isprintable()
            raise PlainPickleError(f"it asks for {self.text if printable else ascii(self.text)}")


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


class _Machine:
    """Stack machine of a pickle; the method op_NAME runs the instruction NAME.

    Args:
        budget: number of bytes and members that all calls together may take, so that a file cannot
            unfold to many times its size.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Run one instruction.

        Raises:
            PlainPickleError: the instruction is damaged, or makes more than plain values.
        """
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
        """Return the top of the stack, which must be of a kind."""
        if not isinstance(self.stack[-1], kind):
            raise PlainPickleError(f"it uses a {type(self.stack[-1]).__name__} as {kind.__name__}")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        """Remove and return the values above the last mark."""
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
            self.pop_to_mark()

    def op_pop_mark(self, _: Any) -> None:
        self.pop_to_mark()

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
        values = self.pop_to_mark()
        self.top(list).extend(values)

    def op_additems(self, _: Any) -> None:
        values = self.pop_to_mark()
        self.top(set).update(plain_key(value) for value in values)

    def op_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.top(dict)[plain_key(key)] = value

    def op_setitems(self, _: Any) -> None:
        values = self.pop_to_mark()
        self.top(dict).update(_make_pairs(values))

    def op_list(self, _: Any) -> None:
        self.push(self.pop_to_mark())

    def op_tuple(self, _: Any) -> None:
        self.push(tuple(self.pop_to_mark()))

    def op_dict(self, _: Any) -> None:
        self.push(_make_pairs(self.pop_to_mark()))

    def op_frozenset(self, _: Any) -> None:
        self.push(frozenset(plain_key(value) for value in self.pop_to_mark()))

    # -- names and calls

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

    def spend(self, values: Sequence[Any]) -> None:
        """Take the size of `values` off the budget.

        Raises:
            PlainPickleError: the budget is used up.
        """
        kinds = (str, bytes, bytearray, list, tuple)
        self.budget -= sum(len(v) for v in values if isinstance(v, kinds))
        if self.budget < 0:
            raise PlainPickleError("it makes more than it holds")


def _make_pairs(values: list[Any]) -> dict[Any, Any]:
    """Return the dict of a list key, value, key, value, ..."""
    if len(values) % 2:
        raise PlainPickleError("it is damaged: a key without a value")
    return {plain_key(k): v for k, v in zip(values[::2], values[1::2], strict=True)}


def load_plain_pickle(data: bytes) -> Any:
    """Return the value of a pickle of protocol 0 to 5, with each array as a PlainArray.

    Raises:
        PlainPickleError: the pickle is damaged, or asks for anything but plain values. The message
            continues a sentence that ends with "refused: ".
    """
    # Bytes of Python 2 count twice: as text, and as the bytes that the text becomes.
    machine = _Machine(budget=2 * len(data))
    try:
        for opcode, argument in read_instructions(io.BytesIO(data)):
            if opcode.name != "STOP":
                machine.run(opcode.name, argument)
        return machine.stack.pop()
    except PlainPickleError:
        raise
    except DAMAGES as error:
        raise PlainPickleError(f"it is damaged ({str(error)[:200]})") from error
