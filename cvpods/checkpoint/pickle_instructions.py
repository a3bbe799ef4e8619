"""Reader of a pickle's instructions."""

from __future__ import annotations

import codecs
import pickletools
from collections.abc import Iterator
from typing import IO, Any

_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
# Exceptions that damaged instructions raise. numpy raises SystemError for texts that are not valid
# Unicode.
DAMAGES = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, SystemError)


class PlainPickleError(ValueError):
    """A pickle that is damaged, or asks for more than plain values."""


def _decode_string(line: bytes) -> str:
    """Return the argument of STRING. pickletools' reader refuses bytes above 127."""
    line = line.rstrip(b"\r\n")
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise PlainPickleError("it is damaged: a text without quotes")
    decoded, _ = codecs.escape_decode(line[1:-1])
    assert isinstance(decoded, bytes)
    return decoded.decode("latin1")


def read_instructions(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Yield each instruction and its argument, up to STOP.

    Raises:
        PlainPickleError: an instruction is unknown or missing.
    """
    while code := file.read(1):
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise PlainPickleError(f"it is damaged: the instruction {code!r} does not exist")
        if opcode.name == "STRING":
            yield opcode, _decode_string(file.readline())
        else:
            yield opcode, None if opcode.arg is None else opcode.arg.reader(file)
        if opcode.name == "STOP":
            return
    raise PlainPickleError("it is damaged: it has no end")
