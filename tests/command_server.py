"""The commands of this project, started in a fraction of a second: imported once, forked for each.

`server(folder)` starts the process and fills `folder` with programs pods_train, pods_test, ..., and
python, which hand their words, their folder, their environment and their files to it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.forking import fork, status_of
from tests.load_script import ROOT, load_script

PROGRAM = """#!{python} -IS
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([[{name!r}, *sys.argv[1:]], os.getcwd(), dict(os.environ)]).encode()
    files = array.array("i", [0, 1, 2])
    size = len(request).to_bytes(8, "big")
    server.sendmsg([size], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    server.sendall(request)
    sys.exit(int(server.makefile().read()))
"""
NAMES = ("train", "test", "check", "debug", "convert", "demo", "export", "infer", "draw", "vis")


@contextmanager
def server(folder: Path) -> Iterator[None]:
    """Run the server while the context lasts."""
    folder.mkdir()
    # The path of a socket is short; that of a test's folder may not be.
    address = f"/tmp/commands.{os.getpid()}.{time.monotonic_ns()}"
    for name in (*(f"pods_{name}" for name in NAMES), "python"):
        program = folder / name
        program.write_text(PROGRAM.format(python=sys.executable, address=address, name=name))
        program.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, __file__, address],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        Path(address).unlink(missing_ok=True)


def call(words: list[str]) -> None:
    """Do what the command does, in this process."""
    import cvpods_ext.console as console

    sys.argv = words
    if words[0] != "python":
        getattr(console, words[0])()
    elif words[1] == "-c":
        sys.argv = words[1:]
        sys.path.insert(0, "")
        exec(compile(words[2], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words[1:]
        sys.path.insert(0, str(Path(words[1]).resolve().parent))
        runpy.run_path(words[1], run_name="__main__")


def run(words: list[str], cwd: str, environment: dict[str, str], files: list[int]) -> int:
    """Run a command in a forked process; return its exit status."""

    def work() -> None:
        for target, file in enumerate(files):
            os.dup2(file, target)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        call(words)

    return status_of(fork(work))


def serve(address: str) -> None:
    """Answer requests, one after the other, for ever."""
    import torch

    load_script("scripts/import_all.py").import_modules()  # the commands import them when needed
    with contextlib.suppress(ImportError):  # what pods_export takes seconds to import
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch._dynamo
        import torch.onnx._internal.exporter._core  # noqa: F401
    torch.set_num_threads(1)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            with connection:
                size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_LEN(12))
                files = array.array("i")
                files.frombytes(ancillary[0][2])
                request = connection.makefile("rb").read(int.from_bytes(size, "big"))
                status = run(*json.loads(request), files=list(files))
                for file in files:
                    os.close(file)
                connection.sendall(str(status).encode())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.argv[1])
