"""What torch's restricted reader of pickles does not look at, looked at before."""

from __future__ import annotations

import pickletools
from typing import IO

from cvpods.checkpoint.pickle_instructions import DAMAGES, PlainPickleError, instructions

# Of tuples in tuples.
MAX_DEPTH = 1000


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
        for opcode, argument in instructions(file):
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
    except DAMAGES as error:
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
    if deepest > MAX_DEPTH:
        raise PlainPickleError(f"it has tuples in tuples, more than {MAX_DEPTH} deep")
    mark = pickletools.markobject
    stack.extend(-1 if made is mark else deepest for made in opcode.stack_after)
