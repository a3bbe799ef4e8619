"""The instructions of a pickle, read one by one."""

from __future__ import annotations

import codecs
import pickletools
from collections.abc import Iterator
from typing import IO, Any

_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
# What damaged instructions raise; SystemError: numpy, of texts that are no Unicode.
DAMAGES = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, SystemError)


class PlainPickleError(ValueError):
    """The pickle is damaged, or asks for more than plain values."""


def _text_of_python_2(line: bytes) -> str:
    """The argument of STRING; pickletools reads none with bytes above 127."""
    line = line.rstrip(b"\r\n")
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise PlainPickleError("it is damaged: a text without quotes")
    decoded, _ = codecs.escape_decode(line[1:-1])
    assert isinstance(decoded, bytes)
    return decoded.decode("latin1")


def instructions(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
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
