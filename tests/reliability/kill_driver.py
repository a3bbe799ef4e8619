"""Kills training runs at random moments, resumes them and compares their ends.

Runs as a process of its own that imports everything once and forks a child for each run, so that a
run starts in a fraction of a second: python kill_driver.py EXPERIMENT OUTPUT TRIALS SEED. Prints a
line of json for each trial.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import cvpods_ext.configs  # noqa: F401 - what the experiment imports is imported here, once
import cvpods_ext.methods.feature_align.detector  # noqa: F401
from cvpods.tools.train import main as pods_train
from tests.forking import fork, print_to, status_of

KINDS = (
    "SIGKILL",
    "SIGTERM",
    "SIGINT",
    "SIGHUP",
    "SIGUSR1",
    "nohup",
    "full",
    "truncate",
    "inside a write",
)

# Seconds that a worker takes which is not forked.
IMPORTS = 5.0


def start(
    experiment: Path,
    output: Path,
    *words: str,
    hangup: Any = signal.SIG_DFL,
    method: str = "fork",
) -> int:
    """Fork `pods_train` into the background; return its process id.

    Args:
        hangup: the handler of SIGHUP at its start; nohup ignores it.
        method: how it starts loaders' workers.
    """
    output.mkdir(parents=True, exist_ok=True)

    def work() -> None:
        os.chdir(experiment)
        multiprocessing.set_start_method(method, force=True)
        print_to(output / "console.txt", os.O_APPEND)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, hangup)
        pods_train(["--num-gpus", "0", *words, "OUTPUT_DIR", str(output)])

    return fork(work)


def wait_for_write(pid: int, output: Path, number: int) -> None:
    """Return while the number-th checkpoint is being written, or when the process has ended."""
    seen: set[str] = set()
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        seen.update(path.name for path in output.glob(".model_*.tmp"))
        if len(seen) >= number:
            return


def truncate_newest(output: Path, rng: random.Random) -> str:
    """Cut the file that was written last short, as a power cut may."""
    files = [*output.glob("model_*.pth"), output / "last_checkpoint", output / "metrics.json"]
    files = sorted((f for f in files if f.is_file()), key=lambda f: f.stat().st_mtime_ns)
    if not files:
        return "nothing"
    size = files[-1].stat().st_size
    os.truncate(files[-1], rng.randrange(size) if size else 0)
    return files[-1].name


def interrupt(kind: str, pid: int, output: Path, seconds: float, rng: random.Random) -> str:
    """Interrupt a running process after some seconds, in the way of `kind`; return a remark."""
    if kind == "inside a write":
        wait_for_write(pid, output, rng.randint(1, 4))
        os.kill(pid, signal.SIGKILL)
        return f"{len(list(output.glob('.model_*.tmp')))} unfinished"
    time.sleep(seconds)
    if kind == "full":
        # Files may not grow beyond this; Python ignores SIGXFSZ, so that writes fail.
        limit = rng.choice((0, 1000, 3_000_000))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, limit))
        return f"limit {limit}"
    instead = {"truncate": "SIGKILL", "nohup": "SIGHUP"}
    os.kill(pid, getattr(signal, instead.get(kind, kind)))
    return ""


def losses(output: Path) -> dict[int, dict[str, float]]:
    """Return the values of metrics.json that must not depend on kills, by iteration."""
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {r["iteration"]: {k: v for k, v in r.items() if "time" not in k} for r in records}


def same_losses(output: Path, reference: Path, whole: bool) -> bool:
    """Compare the losses of every iteration, or of those that remain if the file was cut.

    Args:
        whole: whether the file was not cut.
    """
    found, wanted = losses(output), losses(reference)
    last = max(wanted)
    if whole:
        return found == wanted
    return last in found and all(wanted[i].items() >= r.items() for i, r in found.items())


def same_weights(one: Path, other: Path) -> bool:
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    return all(
        first[part].keys() == second[part].keys()
        and all(torch.equal(first[part][k], second[part][k]) for k in first[part])
        for part in ("model", "ema")
    )


def trial(index: int, experiment: Path, folder: Path, reference: Path, seconds: float) -> dict:
    rng = random.Random(1000 * SEED + index)
    kind = KINDS[index % len(KINDS)]
    output = folder / f"trial_{index}"
    workers = ["DATALOADER.NUM_WORKERS", str(rng.randint(0, 1))]
    method = rng.choice(multiprocessing.get_all_start_methods())
    if workers[1] == "1" and method != "fork":
        seconds += IMPORTS
    hangup = signal.SIG_IGN if kind == "nohup" else signal.SIG_DFL
    pid = start(experiment, output, *workers, hangup=hangup, method=method)
    remark = interrupt(kind, pid, output, rng.uniform(0, seconds), rng)
    status = status_of(pid)
    if kind == "truncate":
        remark = truncate_newest(output, rng)
    saved = sorted(path.name for path in output.glob("model_*.pth"))
    resumed = status_of(start(experiment, output, "--resume", *workers, method=method))
    final, wanted = output / "model_final.pth", reference / "model_final.pth"
    ended = resumed == 0 and final.is_file()
    console = (output / "console.txt").read_text(errors="replace")
    return {
        "kind": kind,
        "workers": f"{workers[1]}, {method}",
        "remark": remark,
        "status": status,
        "checkpoints": saved,
        "resumed": resumed,
        "weights": ended and same_weights(output / "model_final.pth", wanted),
        "losses": ended and same_losses(output, reference, whole=remark != "metrics.json"),
        "leftovers": [path.name for path in output.glob(".*.tmp")],
        "traceback": "Traceback" in console,
        "console": console[-3000:],
    }


def run(experiment: Path, folder: Path, trials: int) -> Iterator[dict]:
    reference = folder / "reference"
    begun = time.perf_counter()
    assert status_of(start(experiment, reference)) == 0, (reference / "console.txt").read_text()
    seconds = time.perf_counter() - begun
    for index in range(trials):
        yield trial(index, experiment, folder, reference, seconds)
        shutil.rmtree(folder / f"trial_{index}")


if __name__ == "__main__":
    SEED = int(sys.argv[4])
    for record in run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])):
        print(json.dumps(record), flush=True)
