"""Several processes: lost ones, failing ones, two launchers, a cluster, slow scoring."""

from __future__ import annotations

import datetime
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cvpods.utils import comm
from tests import command_server
from tests.command_server import Started
from tests.conftest import command_environment, wrap_net
from tests.cvpods.tools.test_commands import losses
from tests.load_script import ROOT

BIN = Path(sys.executable).parent
SHORT = [
    "SOLVER.LR_SCHEDULER.MAX_ITER",
    "12",
    "SOLVER.CHECKPOINT_PERIOD",
    "4",
    "TEST.EVAL_PERIOD",
    "-1",
]


@pytest.fixture
def start(experiment: Path, shapes_root: Path, programs: Path) -> Callable[..., Started]:
    """Return command_server.start for the experiment's folder."""
    environment = command_environment(shapes_root)
    return lambda words, **options: command_server.start(
        programs, words, experiment, environment, **options
    )


def start_really(words: list[str], folder: Path, shapes_root: Path) -> subprocess.Popen:
    """Start an installed command in a process group of its own; its log is on stderr."""
    return subprocess.Popen(
        [str(BIN / words[0]), *words[1:]],
        cwd=folder,
        env=command_environment(shapes_root),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen | Started, sign: str) -> str:
    """Return the output of the process up to a line with the sign."""
    text = ""
    for line in process.stderr:
        text += line
        if sign in line:
            return text
    raise AssertionError(f"never wrote {sign!r}:\n{text[-3000:]}")


def ranks(process: subprocess.Popen) -> list[int]:
    """Return the process ids of the ranks that a launcher has started."""
    pids = []
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                pids.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return sorted(pids)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc")
def test_lost_processes(experiment, shapes_root):
    """One of two is killed after iteration 6: both resume from iteration 4. One is killed again:
    no restart is left, the other ends within seconds, and the launcher names the killed one.
    """
    words = ["pods_train", "--num-processes", "2", "--max-restarts", "1", *SHORT]
    process = start_really(words, experiment, shapes_root)
    read_until(process, "iter: 6/12")
    os.kill(ranks(process)[-1], signal.SIGKILL)
    restarted = read_until(process, "iter: 8/12")
    assert "Restarted by the launcher (1)" in restarted
    assert "Continuing at iteration" in restarted
    begun = time.perf_counter()
    os.kill(ranks(process)[-1], signal.SIGKILL)
    rest = process.stderr.read()
    assert process.wait() == 1
    assert time.perf_counter() - begun < 15
    assert "Process 1 failed first (killed by SIGKILL)" in rest
    assert "Traceback" not in restarted + rest, restarted + rest
    assert sorted(losses(experiment / "output"))[:8] == list(range(8))


_FAILS = """
from net_of_experiment import build_model as build
from cvpods.utils import comm


def build_model(cfg):
    model = build(cfg)
    forward = model.forward
    calls = []

    def fails(batch):
        calls.append(1)
        if comm.get_rank() == 1 and len(calls) == 3:
            raise RuntimeError("the third batch of rank 1 is bad")
        return forward(batch)

    model.forward = fails
    return model
"""


@pytest.mark.slow
def test_the_message_of_the_failing_rank_comes_first(experiment, shapes_root):
    """One traceback, that of rank 1; rank 0 does not add what it suffers from it."""
    wrap_net(experiment, _FAILS)
    begun = time.perf_counter()
    words = ["pods_train", "--num-processes", "2", *SHORT]
    process = start_really(words, experiment, shapes_root)
    read_until(process, "Starting training")
    began_training = time.perf_counter()
    text = process.stderr.read()
    assert process.wait() == 1
    assert time.perf_counter() - began_training < 15, time.perf_counter() - begun
    assert text.count("Traceback (most recent call last)") == 1, text
    assert "RuntimeError: the third batch of rank 1 is bad" in text
    assert "Process 1 failed first" in text.splitlines()[-1]


@pytest.mark.slow
def test_a_signal_to_all_processes_and_another_number_of_them(experiment, start, run_command):
    """Launcher, 2 ranks and loaders' workers get SIGINT, as from Ctrl-C; they save and stop.
    One process resumes with the same images in the same order; the log says what changes.
    """
    words = ["pods_train", "--num-processes", "2", *SHORT, "DATALOADER.NUM_WORKERS", "1"]
    process = start(words)
    read_until(process, "iter: 2/12")
    os.killpg(process.pid, signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 128 + signal.SIGINT, rest[-3000:]
    done = int(re.search(r"(\d+) of 12 iterations are done and saved", rest)[1])
    assert (experiment / f"output/model_iter_{done:07d}.pth").is_file()
    assert "Stopped by SIGINT" in rest and "Traceback" not in rest
    said = run_command(["pods_train", "--resume", *SHORT], experiment).stderr
    assert "had 4 images per optimiser step: 2 process(es)" in said
    assert "the augmentation of the images continue unchanged" in said
    assert sorted(losses(experiment / "output")) == list(range(12))


# Signals are handled like in a shell's foreground, however the tests were started.
DEFAULT_SIGNALS = {"SIGHUP": "default", "SIGUSR1": "default"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_two_processes_save_at_a_hangup(name, experiment, start):
    """SIGHUP twice, as a closed terminal sends it to the launcher alone; SLURM's SIGUSR1."""
    process = start(["pods_train", "--num-processes", "2", *SHORT], signals=DEFAULT_SIGNALS)
    read_until(process, "iter: 2/12")
    signum = getattr(signal, name)
    os.kill(process.pid, signum)
    if name == "SIGHUP":
        time.sleep(0.2)
        os.kill(process.pid, signum)
    rest = process.stderr.read()
    assert process.wait() == 128 + signum, rest[-3000:]
    done = int(re.search(r"(\d+) of 12 iterations are done and saved", rest)[1])
    assert (experiment / f"output/model_iter_{done:07d}.pth").is_file()
    assert f"Stopped by {name}" in rest and "Traceback" not in rest


@pytest.mark.slow
@pytest.mark.parametrize("count", ["1", "2"])
def test_nohup(count, experiment, start):
    """SIGHUP to the launcher and all its processes: training ends as ever."""
    words = ["pods_train", *(["--num-processes", count] if count == "2" else []), *SHORT]
    process = start(words, signals={"SIGHUP": "ignore"})
    read_until(process, "iter: 2/12")
    os.killpg(process.pid, signal.SIGHUP)
    rest = process.stderr.read()
    assert process.wait() == 0, rest[-3000:]
    assert "iter: 12/12" in rest and (experiment / "output/model_final.pth").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo terminals")
@pytest.mark.parametrize("count", ["1", "2"])
def test_a_closed_terminal(count, experiment, start):
    """The terminal goes away: writing to it fails, the signal comes, and the run is saved."""
    master, terminal = pty.openpty()
    words = ["pods_train", "--num-processes", count, *SHORT]
    process = start(words, terminal=terminal, signals=DEFAULT_SIGNALS)
    os.close(terminal)
    text = b""
    while b"iter: 3/12" not in text:
        text += os.read(master, 4096)
    os.close(master)
    status = process.wait()
    log = (experiment / "output/log.txt").read_text()
    assert status == 128 + signal.SIGHUP, log[-3000:]
    done = int(re.search(r"(\d+) of 12 iterations are done and saved", log)[1])
    assert (experiment / f"output/model_iter_{done:07d}.pth").is_file()


@pytest.mark.slow
def test_two_launchers_train_together(experiment, shapes_root):
    """Two "machines" of one process, through scripts/slurm_train.sh on a pretended cluster."""
    tools = experiment.parent / "bin"
    tools.mkdir()
    srun = """#!/usr/bin/env bash
shift
SLURM_NODEID=1 "$@" 2>"$LOG.1" & other=$!
SLURM_NODEID=0 "$@" 2>"$LOG.0"; status=$?
wait $other || status=$?
exit $status
"""
    (tools / "srun").write_text(srun)
    (tools / "scontrol").write_text("#!/bin/sh\necho localhost\necho second\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/slurm_train.sh"), str(experiment), *SHORT],
        env={
            **command_environment(shapes_root),
            "PATH": f"{tools}:{BIN}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "localhost,second",
            "SLURM_NNODES": "2",
            "CVPODS_PORT": str(free_port()),
            "LOG": str(tools / "log"),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    first = (tools / "log.0").read_text()
    assert done.returncode == 0, first[-2000:] + (tools / "log.1").read_text()[-2000:]
    assert "Rank 0 of 2" in first and "iter: 12/12" in first
    assert "iter: 12/12" not in (tools / "log.1").read_text()
    assert sorted(losses(experiment / "output")) == list(range(12))


def slow_scoring(rank: int, store: str, seconds: float) -> None:
    """Two processes whose group gives up after a second: rank 0 scores longer than that."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=1),
    )
    found = [{"rank": rank, "number": i} for i in range(7 - rank)]
    together = comm.gather_list(found, chunk=3)
    if rank == 0:
        expected = [(0, i) for i in range(7)] + [(1, i) for i in range(6)]
        assert [(d["rank"], d["number"]) for d in together] == expected
        time.sleep(seconds)
    else:
        assert together == []
    comm.synchronize()
    assert comm.all_reduce(torch.ones(1)).item() == 2
    dist.destroy_process_group()


@pytest.mark.slow
def test_scoring_may_take_longer_than_the_groups_timeout(tmp_path):
    """Detections travel in pieces of three; rank 1 waits three timeouts for rank 0."""
    arguments = (str(tmp_path / "store"), 3.0)
    mp.start_processes(slow_scoring, args=arguments, nprocs=2, start_method="fork")
