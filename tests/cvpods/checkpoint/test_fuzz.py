"""Thousands of damaged files of weights: each gives a result or a CheckpointError.

A separate process, with a limited address space, makes and reads the files: it runs this module as
a program.
"""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import pickletools
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cvpods.checkpoint import load_file
from cvpods.utils.errors import CheckpointError

FILES = 10_000
SECONDS_PER_FILE = 10
ADDRESS_SPACE = 2 << 30  # beyond what the imports take
PEAK = 256 << 20  # bytes that all files together may add to what the imports take


# -- valid files -----------------------------------------------------------------------------------


def torch_file(new_format: bool) -> bytes:
    weights = collections.OrderedDict(
        {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2).half()}
    )
    content = {"state_dict": weights, "array": np.arange(3), "epoch": 12, "lr": [0.1, (True, None)]}
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=new_format)
    return buffer.getvalue()


def make_seeds() -> dict[str, bytes]:
    """Return a small file of every format."""
    weights = {"conv.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}
    provenance = {"provenance": json.dumps({"expects": {"INPUT.FORMAT": "BGR"}})}
    arrays = {"stem.conv1.weight": np.arange(6, dtype=np.float32), "n": np.float32(1)}
    converted = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    blobs = {"conv1_w": np.ones((2, 2), np.float32), "res_conv1_bn_s": np.ones(2), "lr": 0.1}
    return {
        "pth": torch_file(True),
        "pth legacy": torch_file(False),
        "safetensors": safetensors.torch.save(weights, provenance),
        "pkl detectron2": pickle.dumps(converted, 2),
        "pkl MSRA 2": pickle.dumps({"blobs": blobs, "cfg": "x"}, 2),
        "pkl MSRA 4": pickle.dumps(blobs, 4),
    }


# -- damage ----------------------------------------------------------------------------------------

NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0" * 8)
NUMBERS = (*NUMBERS, b"\xff" * 8, b"\xff" * 7 + b"\x7f", struct.pack("<q", 10**12))
TEXTS = ("-1", "0", "9999999999999", "1e99", "null", "[]", '"x"', "{", "[0]", '"F16"', "[[1]]")


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, overwrite, insert, delete, cut off or copy bytes."""
    kind = rng.randrange(7)
    start = rng.randrange(len(data)) if data else 0
    end = min(len(data), start + rng.choice((1, 1, 2, 4, 8, 40)))
    if kind == 0 and data:
        return data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :]
    if kind == 1:
        return data[:start] + rng.randbytes(end - start) + data[end:]
    if kind == 2:
        return data[:start] + rng.randbytes(rng.randrange(1, 9)) + data[start:]
    if kind == 3:
        return data[:start] + data[end:]
    if kind == 4:
        return data[:start]
    if kind == 5:
        to = rng.randrange(len(data)) if data else 0
        return data[:to] + data[start:end] + data[to + rng.choice((0, end - start)) :]
    return data[:start] + (number := rng.choice(NUMBERS)) + data[start + len(number) :]


def instructions(data: bytes, start: int = 0) -> list[bytes]:
    """Split a pickle into its instructions, from `start` on."""
    pickled = data[start:]
    places = [place for _, _, place in pickletools.genops(pickled)]
    return [pickled[a:b] for a, b in zip(places, [*places[1:], places[-1] + 1], strict=True)]


def damage_instructions(rng: random.Random, parts: list[bytes]) -> bytes:
    """Replace, insert, delete, repeat or exchange instructions, or change an argument."""
    parts = list(parts)
    at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    code = rng.choice(pickletools.opcodes).code.encode("latin1")
    kind = rng.randrange(7)
    if kind == 0:
        parts[at] = code + parts[at][1:]
    elif kind == 1:
        parts.insert(at, code + rng.choice((b"", b"\0", b"\1", b"a\n", *NUMBERS)))
    elif kind == 2:
        del parts[at]
    elif kind == 3:
        parts.insert(at, parts[other])
    elif kind == 4:
        parts[at], parts[other] = parts[other], parts[at]
    elif kind == 5:
        parts[at] = parts[at][:1] + damage_bytes(rng, parts[at][1:])
    else:
        parts[at:at] = parts[other : other + rng.randrange(12)] * rng.choice((1, 1, 2, 50))
    return b"".join(parts)


def damage_pickle(rng: random.Random, data: bytes) -> bytes:
    return damage_instructions(rng, instructions(data))


def damage_archive(rng: random.Random, data: bytes) -> bytes:
    """Damage the pickle in an archive, or another entry, with correct check sums."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry.endswith("data.pkl"):
                content = damage_pickle(rng, content)
            elif rng.random() < 0.1:
                content = damage_bytes(rng, content)
            new.writestr(zipfile.ZipInfo(entry), content)
    return made.getvalue()


def damage_legacy(rng: random.Random, data: bytes) -> bytes:
    """Damage the fourth of the five pickles, which holds the content."""
    start = 0
    for _ in range(3):
        start += sum(len(part) for part in instructions(data, start))
    parts = instructions(data, start)
    rest = data[start + sum(len(part) for part in parts) :]
    return data[:start] + damage_instructions(rng, parts) + rest


def damage_header(rng: random.Random, data: bytes) -> bytes:
    """Damage a number or text of the JSON in .safetensors, with the correct length."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.5:
        header = damage_bytes(rng, header)
    else:
        parts = header.decode("latin1").replace(",", "\n,\n").replace(":", "\n:\n").split("\n")
        parts[rng.randrange(len(parts))] = rng.choice(TEXTS)
        header = "".join(parts).encode("latin1")
    return len(header).to_bytes(8, "little") + header + rest


INSIDE = {"pth": damage_archive, "pth legacy": damage_legacy, "safetensors": damage_header}


def damaged(rng: random.Random, kind: str, data: bytes) -> bytes:
    inside = INSIDE.get(kind, damage_pickle)
    data = inside(rng, data) if (with_inside := rng.random() < 0.6) else data
    for _ in range(rng.choice((0, 0, 0, 1)) if with_inside else rng.choice((1, 1, 1, 2, 5))):
        data = damage_bytes(rng, data)
    return data


# -- the process that reads them -------------------------------------------------------------------


class TooLong(BaseException):
    """Timeout that does not derive from Exception, so that only main() catches it."""


def on_alarm(*_: object) -> None:
    raise TooLong


def outcome(path: Path) -> str:
    """Return the outcome of reading a file: "read", "refused", or a description of a fault."""
    signal.alarm(SECONDS_PER_FILE)
    try:
        content = load_file(path)
        assert isinstance(content["model"], dict) and isinstance(content["expects"], dict)
        return "read"
    except CheckpointError as error:
        return "refused" if str(path) in str(error) else f"a message without the file: {error}"
    except TooLong:
        return "too long"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.alarm(0)


def main(folder: Path, count: int) -> None:
    """Read `count` damaged files, and print their outcomes as JSON."""
    signal.signal(signal.SIGALRM, on_alarm)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seeds = make_seeds()
    found: dict[str, collections.Counter] = {kind: collections.Counter() for kind in seeds}
    paths = {kind: folder / f"x.{kind.split()[0]}" for kind in seeds}
    for kind, data in seeds.items():
        paths[kind].write_bytes(data)
        assert outcome(paths[kind]) == "read", kind
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESS_SPACE, taken + ADDRESS_SPACE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    longest = 0.0
    for i in range(count):
        kind = list(seeds)[i % len(seeds)]
        paths[kind].write_bytes(damaged(random.Random(i), kind, seeds[kind]))
        start = time.perf_counter()
        what = outcome(paths[kind])
        longest = max(longest, time.perf_counter() - start)
        if what not in ("read", "refused"):
            paths[kind].rename(folder / f"{i}.{kind.split()[0]}")
            print(i, kind, what, file=sys.stderr)
        found[kind][what] += 1
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = {"found": found, "peak": (after - before) * 1024, "longest": longest}
    print(json.dumps(report))


# -- the tests -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_damaged_files(tmp_path):
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, __file__, str(tmp_path), str(FILES)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
    )
    # A crash leaves the file that it read in the folder.
    assert result.returncode == 0, (result.stderr[-2000:], sorted(tmp_path.iterdir()))
    report = json.loads(result.stdout.splitlines()[-1])
    assert sum(sum(kinds.values()) for kinds in report["found"].values()) == FILES
    for kind, outcomes in report["found"].items():
        assert set(outcomes) == {"read", "refused"}, (kind, outcomes, result.stderr[-2000:])
        assert min(outcomes.values()) > 20, (kind, outcomes)
    assert report["peak"] < PEAK, report["peak"]
    assert report["longest"] < SECONDS_PER_FILE


# Files that once caused a fault: {fault: (format, content, reason of the refusal)};
# the reason is None if the file is read.
ITEM = b"\x80\x02}X\x01\0\0\0a"
SCALAR = b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
NASTY = {
    "segmentation fault: a deep key is hashed": (
        "zip",
        b"\x80\x02})" + b"\x85" * 3_000_000 + b"Ns.",
        "tuples in tuples",
    ),
    "segmentation fault: the same, each level from the memo": (
        "zip",
        b"\x80\x02)q\0" + b"h\0\x85q\0" * 1_000_000 + b"}h\0Ns.",
        "tuples in tuples",
    ),
    "memory: a bytearray of 1.9 GB": (
        "zip",
        ITEM + b"c__builtin__\nbytearray\nJ\0\0\x40\x71\x85Rs.",
        "asks for bytearray",
    ),
    "AttributeError: an array that was never called": (
        "zip",
        ITEM + b"cnumpy\nndarray\n)\x81s.",
        None,
    ),
    "TypeError: items of an OrderedDict is 5": (
        "zip",
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x05sb.",
        None,
    ),
    "TypeError: keys of the content is 5": (
        "zip",
        b"\x80\x02ccollections\nOrderedDict\n)RX\x05\0\0\0model}s}X\x04\0\0\0keysK\x05sb.",
        None,
    ),
    "TypeError: expects is 5": ("zip", b"\x80\x02}X\5\0\0\0model}sX\7\0\0\0expectsK\5s.", None),
    "SystemError: a character that is none": (
        "pkl",
        SCALAR + b"X\x02\0\0\0U1\x85RC\x04\xff\xff\xff\xff\x86R.",
        "damaged",
    ),
    "memory: a set of 30,000 again and again": (
        "pkl",
        b"\x80\x02](" + b"".join(b"M" + struct.pack("<H", i) for i in range(30_000)) + b"eq\x000"
        b"c__builtin__\nset\nq\x010" + b"h\x01h\0\x85R" * 400 + b".",
        "more than it holds",
    ),
    "time: a long number hashed again and again": (
        "pkl",
        b"\x80\x02}\x8b\x40\x42\x0f\0"
        + b"\x01" * 1_000_000
        + b"q\x00Ns"
        + b"h\0Ns" * 10_000
        + b".",
        "a long int",
    ),
    "time: the product of long numbers": (
        "pkl",
        b"\x80\x02\x8b\xa0\x86\x01\0" + b"\x01" * 100_000 + b"q\x00"
        b"cnumpy.core.numeric\n_frombuffer\n(U\x00cnumpy\ndtype\nU\x02f4\x85R("
        + b"h\0" * 8
        + b"ttR.",
        "not a tuple of numbers",
    ),
    "a text of Python 2 above 127": ("pkl", b"(dS'a'\nS'\xff\\xfe'\ns.", None),
    "a directory of entries that is none": (
        "file",
        b"PK\x03\x04" + b"PK\x05\x06" * 9,
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", list(NASTY))
def test_nasty_files(tmp_path, name):
    kind, data, reason = NASTY[name]
    path = tmp_path / ("x.pkl" if kind == "pkl" else "x.pth")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", "3\n")
    else:
        path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if reason is None:
        assert isinstance(load_file(path)["model"], dict)
    else:
        with pytest.raises(CheckpointError, match=reason) as raised:
            load_file(path)
        assert str(path) in str(raised.value)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < PEAK


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
