"""Launchers that meet, and each way in which they fail to; all on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from cvpods.engine import machines
from cvpods.engine.launch import launch
from cvpods.engine.machines import MeetingFailed, Place, meet
from tests.load_script import ROOT

SOON = 0.01  # minutes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def busy_port():
    """Listen on a port as a program that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Collect the messages that are logged."""
    lines: list[str] = []
    monkeypatch.setattr(machines.logger, "info", lines.append)
    return lines


def in_thread(place: Place, rank: int, results: dict) -> threading.Thread:
    def run() -> None:
        try:
            results[rank] = meet(place, rank)
        except MeetingFailed as error:
            results[rank] = str(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_three_machines_meet(port, said):
    """Machine 0 logs the missing machines at once, and again when one has come."""
    place, results = Place("localhost", port, 3, 1), {}
    threads = [in_thread(place, rank, results) for rank in (0, 1)]
    while len(said) < 3:
        time.sleep(0.05)
    threads.append(in_thread(place, 2, results))
    for thread in threads:
        thread.join(20)
    assert all(isinstance(results[rank], dist.TCPStore) for rank in range(3)), results
    results[1].set("key", "value")
    assert results[2].get("key") == b"value"
    assert f"Waiting for machine 2 of 3 at localhost:{port}, for 1 minutes at most" in said[2]
    assert sum("Waiting for machine 0 of 3" in line for line in said) == 2


def test_a_machine_that_does_not_come(port, said):
    with pytest.raises(MeetingFailed, match=r"Machine 1 of 2 did not reach localhost:\d+ within"):
        meet(Place("localhost", port, 2, SOON), 0)
    assert f"Waiting for machine 1 of 2 at localhost:{port}" in said[0]


def test_a_machine_0_that_does_not_start(port, said):
    with pytest.raises(MeetingFailed, match=r"Machine 0 of 2 did not answer.*refused.*firewall"):
        meet(Place("localhost", port, 2, SOON), 1)
    assert f"Waiting for machine 0 of 2 at localhost:{port}" in said[0]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("host", ["nosuch.invalid", "a" * 70, "a b"])
def test_unknown_hosts(host, rank, port):
    with pytest.raises(MeetingFailed, match="is unknown on this machine"):
        meet(Place(host, port, 2, SOON), rank)


def test_a_port_that_is_in_use(busy_port):
    with pytest.raises(MeetingFailed, match=f"port {busy_port} of this machine cannot be opened"):
        meet(Place("localhost", busy_port, 2, SOON), 0)
    with pytest.raises(MeetingFailed, match=f"port {busy_port} of this machine cannot be opened"):
        launch(os.getpid, max_restarts=1, dist_url=f"tcp://localhost:{busy_port}")


def test_another_program_at_the_port(busy_port, monkeypatch):
    monkeypatch.setattr(machines, "_ANSWER", 0.5)
    with pytest.raises(MeetingFailed, match="a program that is not machine 0 of this run answers"):
        meet(Place("localhost", busy_port, 2, SOON), 1)


def test_a_host_that_leads_nowhere(port, monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(machines.socket, "create_connection", refuse)
    with pytest.raises(MeetingFailed, match="does not reach itself"):
        meet(Place("localhost", port, 2, SOON), 0)


def test_two_machines_0(port, monkeypatch):
    """The host leads to another launcher's store."""
    monkeypatch.setattr(machines, "_connect", lambda place: dist.HashStore())
    with pytest.raises(MeetingFailed, match="another launcher with --machine-rank 0 answers"):
        meet(Place("localhost", port, 2, SOON), 0)


def test_another_number_of_machines(port, said):
    results: dict = {}
    thread = in_thread(Place("localhost", port, 3, 0.03), 0, results)
    with pytest.raises(MeetingFailed, match="--num-machines is 2 here and 3 on machine 0"):
        meet(Place("localhost", port, 2, 0.2), 1)
    thread.join(20)
    assert results[0].startswith("Machines 1, 2 of 3 did not reach")


def test_addresses_of_ipv6():
    assert str(Place("::1", 29500)) == "[::1]:29500"


# -- as typed --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", ["unknown", "busy", "alone"])
def test_one_sentence_at_the_end(case, experiment, run_command, busy_port, port):
    address = {
        "unknown": f"nosuch.invalid:{port}",
        "busy": f"localhost:{busy_port}",
        "alone": f"localhost:{port}",
    }[case]
    words = ["--num-machines", "2", "--dist-url", f"tcp://{address}", "--wait-minutes", "0.01"]
    result = run_command(["pods_train", *words], experiment, status=1)
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    expected = {"unknown": "is unknown", "busy": "cannot be opened", "alone": "Machine 1 of 2 did"}
    assert last.startswith("error: ") and expected[case] in last
    assert len(result.stderr.splitlines()) <= 3, result.stderr


_WORK = """
import sys, time
import torch
from cvpods.engine.launch import launch
from cvpods.tools.errors import reporting_errors
from cvpods.utils import comm

def work():
    print("at work", flush=True)
    try:
        while True:
            comm.all_reduce(torch.ones(1))
            time.sleep(0.05)
    except RuntimeError:
        sys.exit(1)

if __name__ == "__main__":
    rank, url = int(sys.argv[1]), sys.argv[2]
    with reporting_errors():
        launch(work, 0, num_machines=2, machine_rank=rank, dist_url=url, wait_minutes=1)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups")
def test_machine_0_is_lost(tmp_path, port):
    """Its launcher and its process are killed in the middle: machine 1 ends with one sentence."""
    (tmp_path / "work.py").write_text(_WORK)
    first, second = (
        subprocess.Popen(
            [sys.executable, str(tmp_path / "work.py"), str(rank), f"tcp://localhost:{port}"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=Path(tmp_path / f"{rank}.txt").open("w"),
            text=True,
            start_new_session=True,
        )
        for rank in (0, 1)
    )
    try:
        assert first.stdout.readline() == second.stdout.readline() == "at work\n"
        os.killpg(first.pid, signal.SIGKILL)
        assert second.wait(60) == 1
    finally:
        for process in (first, second):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = (tmp_path / "1.txt").read_text()
    assert "Traceback" not in text and "frame #" not in text
    assert text.splitlines()[-1].startswith("error: ")
    assert "lost the others of the run" in text or "Process 1 failed first" in text
