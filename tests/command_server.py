"""The commands of this project, started in a fraction of a second: imported once, forked for each.

`server(folder)` starts the process and fills `folder` with programs pods_train, pods_test, ..., and
python, which hand their words, their folder, their environment and their files to it. `start` runs
a command in the background, with a process group of its own.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tests.forking import fork, status_of
from tests.load_script import ROOT, load_script

# The server answers with a line of the process id and a line of the exit status.
PROGRAM = """#!{python} -IS
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([[{name!r}, *sys.argv[1:]], os.getcwd(), dict(os.environ), {{}}]).encode()
    files = array.array("i", [0, 1, 2])
    size = len(request).to_bytes(8, "big")
    server.sendmsg([size], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    server.sendall(request)
    reply = server.makefile()
    reply.readline()
    sys.exit(int(reply.readline()))
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
    (folder / "address").write_text(address)
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


def fork_ranks() -> None:
    """Make the launcher of several processes fork them: they need not import everything again."""
    from cvpods.engine import elastic

    configure = elastic.launch_config

    def forking(*args: Any) -> Any:
        config = configure(*args)
        config.start_method = "fork"
        return config

    elastic.launch_config = forking


def enter(options: dict[str, Any]) -> None:
    """Enter a session of its own, with the signals, the terminal and the limit that are asked for.

    Args:
        options: "signals" maps names to "default" or "ignore"; "terminal": file 0 becomes the
            controlling terminal; "file_size" limits files to so many bytes.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, action in options.get("signals", {}).items():
        handler = signal.SIG_IGN if action == "ignore" else signal.SIG_DFL
        signal.signal(getattr(signal, name), handler)
    if options.get("terminal"):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if limit := options.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def run(
    words: list[str],
    cwd: str,
    environment: dict[str, str],
    options: dict[str, Any],
    files: Sequence[int],
) -> int:
    """Run a command in a forked process; return its process id."""

    def work() -> None:
        for target, file in enumerate(files):
            os.dup2(file, target)
        os.closerange(3, 256)  # the server's connections among them
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        if options:
            enter(options)
        call(words)

    return fork(work)


def answer(connection: socket.socket) -> None:
    """Run what a connection asks for; send the process id and, in the end, the status."""
    size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_LEN(12))
    files = array.array("i")
    files.frombytes(ancillary[0][2])
    request = connection.makefile("rb").read(int.from_bytes(size, "big"))
    pid = run(*json.loads(request), files=files)
    for file in files:
        os.close(file)
    connection.sendall(f"{pid}\n".encode())
    connection.sendall(f"{status_of(pid)}\n".encode())


class Started(NamedTuple):
    """A command in the background, used like subprocess.Popen."""

    pid: int
    stderr: TextIO
    reply: TextIO

    def wait(self) -> int:
        """Return the exit status, negative if a signal ended the process."""
        with self.reply:
            return int(self.reply.readline())


def start(
    programs: Path,
    words: list[str],
    folder: Path,
    environment: dict[str, str],
    terminal: int | None = None,
    **options: Any,
) -> Started:
    """Start a command in the background; see `enter` for the options.

    Args:
        programs: the folder of a server's programs.
        terminal: a terminal for the command's files; by default, its log is read from `stderr`.
    """
    request = [words, str(folder), environment, {"terminal": terminal is not None, **options}]
    content = json.dumps(request).encode()
    read, write = os.pipe()
    with socket.socket(socket.AF_UNIX) as server, open(os.devnull, "r+") as nothing:
        server.connect((programs / "address").read_text())
        files = [nothing.fileno(), nothing.fileno(), write] if terminal is None else [terminal] * 3
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
        server.sendmsg([len(content).to_bytes(8, "big")], rights)
        server.sendall(content)
        reply = server.makefile()
        os.close(write)
        return Started(int(reply.readline()), open(read), reply)


def serve(address: str) -> None:
    """Answer each request in a process of its own, for ever."""
    import torch

    load_script("scripts/import_all.py").import_modules()  # the commands import them when needed
    with contextlib.suppress(ImportError):  # what pods_export takes seconds to import
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch._dynamo
        import torch.onnx._internal.exporter._core
        import torch.utils.tensorboard  # noqa: F401
    fork_ranks()
    torch.set_num_threads(1)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            with connection:
                fork(lambda: answer(connection))  # noqa: B023 - the child has its own copy
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.argv[1])
