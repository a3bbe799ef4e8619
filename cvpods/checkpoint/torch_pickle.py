"""Checks of a pickle that torch's restricted reader does not make."""

from __future__ import annotations

import pickletools
from typing import IO

from cvpods.checkpoint.pickle_instructions import DAMAGES, PlainPickleError, read_instructions

# Largest depth of nested tuples.
MAX_DEPTH = 1000


def check_torch_pickle(file: IO[bytes]) -> None:
    """Refuse pickles that crash torch's restricted reader, which admits only tensors.

    Tuples that are nested many thousands deep overflow the interpreter's stack when they are hashed
    as a key. bytearray(N) allocates any amount of memory at once.

    Raises:
        PlainPickleError: as for load_plain_pickle().
    """
    stack: list[int] = []  # depths of tuples; -1 is a mark
    memo: dict[int, int] = {}
    try:
        for opcode, argument in read_instructions(file):
            if opcode.name == "GLOBAL" and argument.split(" ", 1)[1] == "bytearray":
                raise PlainPickleError("it asks for bytearray")
            if "PUT" in opcode.name:
                memo[argument] = stack[-1]
            elif "GET" in opcode.name:
                stack.append(memo[argument])
            else:
                _apply(opcode, stack)
    except PlainPickleError:
        raise
    except DAMAGES as error:
        raise PlainPickleError(f"it is damaged ({str(error)[:200]})") from error


def _apply(opcode: pickletools.OpcodeInfo, stack: list[int]) -> None:
    """Change the stack of depths as `opcode` changes the stack of values."""
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
