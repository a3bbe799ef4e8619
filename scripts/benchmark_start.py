"""Time and imports that the commands and a loss take to start, beside `import torch`.

python scripts/benchmark_start.py                     this checkout
python scripts/benchmark_start.py --against FOLDER    this checkout and another one, side by side

Each row is a process of its own: CPU seconds (user and system, children included), wall seconds and
the number of loaded modules, medians over the rounds. Rows alternate within a round, so that a
change of the machine's load meets all of them. The last row trains a tiny experiment on generated
shapes, on the CPU, for one iteration.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = "playground/atss.res18.shapes"
# The first of these modules that a checkout has.
LOSSES = ("cvpods_ext.methods.free_anchor.loss", "cvpods_ext.losses.free_anchor")
TINY = (
    "MODEL.FPN.OUT_CHANNELS 64 MODEL.ATSS.NUM_CONVS 1 SOLVER.IMS_PER_BATCH 2 "
    "SOLVER.LR_SCHEDULER.MAX_ITER 1 SOLVER.LR_SCHEDULER.STEPS () "
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS 0 SOLVER.CHECKPOINT_PERIOD -1 TEST.EVAL_PERIOD -1 "
    "DATALOADER.NUM_WORKERS 0"
).split()
TRAIN = "import sys; sys.argv = ['pods_train', *sys.argv[1:]]\n"
TRAIN += "from cvpods_ext.console import pods_train; pods_train()"
# (row, program, words); LOSS stands for the module of LOSSES.
ROWS: list[tuple[str, str, list[str]]] = [
    ("`import numpy`", "import numpy", []),
    ("`import torch`", "import torch", []),
    ("`pods_train --help`", TRAIN, ["--help"]),
    ("a wrong flag", TRAIN, ["--colour", "red"]),
    ("a wrong folder", TRAIN, ["--dir", "nowhere"]),
    ("a misspelt key", TRAIN, ["TEST.EVAL_PEROID", "5"]),
    ("a wrong type", TRAIN, ["SOLVER.IMS_PER_BATCH", "many"]),
    ("`import` of FreeAnchor's loss", "import LOSS", []),
    ("`pods_train`, one iteration", TRAIN, TINY),
]
# Writes the number of loaded modules to a file when the process ends.
COUNT = """
import atexit, os, sys
atexit.register(lambda: open(os.environ["COUNT_FILE"], "w").write(str(len(sys.modules))))
"""


@dataclass(frozen=True)
class Run:
    """CPU seconds, wall seconds and loaded modules of one process."""

    cpu: float
    wall: float
    modules: int


def run(checkout: Path, program: str, words: list[str], work: Path) -> Run:
    """Run a program with the packages of a checkout, inside a copy of the tiny experiment."""
    folder = work / "experiment"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkout / EXPERIMENT, folder, ignore=shutil.ignore_patterns("output", "log"))
    modules = [m for m in LOSSES if (checkout / (m.replace(".", "/") + ".py")).is_file()]
    count = work / "count"
    count.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "CVPODS_DATASETS": str(work),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "COUNT_FILE": str(count),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's second start finds compiled files
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COUNT + program.replace("LOSS", modules[0]), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    failed = done.returncode != 0 and words is TINY or "Traceback" in done.stderr
    if failed or not count.is_file():
        sys.exit(f"{words or program} failed in {checkout}:\n{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(cpu, wall, int(count.read_text(encoding="utf-8")))


def measure(checkouts: list[Path], rounds: int) -> dict[tuple[str, Path], Run]:
    """Return the medians of every row on every checkout; a first round only warms caches."""
    runs: dict[tuple[str, Path], list[Run]] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        maker = [sys.executable, str(ROOT / "datasets/make_shapes.py")]
        words = ["--output", str(work / "shapes"), "--train", "8", "--val", "2"]
        subprocess.run([*maker, *words], check=True, capture_output=True)
        for index in range(rounds + 1):
            for row, program, words in ROWS:
                for checkout in checkouts:
                    result = run(checkout, program, words, work)
                    if index > 0:
                        runs.setdefault((row, checkout), []).append(result)
    return {
        key: Run(
            median(r.cpu for r in found),
            median(r.wall for r in found),
            int(median(r.modules for r in found)),
        )
        for key, found in runs.items()
    }


def table(found: dict[tuple[str, Path], Run], checkouts: list[Path]) -> str:
    """Return the markdown table; `x torch` is the CPU time over that of `import torch`."""
    headers = ["", *(["CPU s", "wall s", "modules", "x torch"] * len(checkouts))]
    if len(checkouts) > 1:
        names = ["this checkout", "the other one"]
        headers[1:] = [f"{header}, {name}" for name in names for header in headers[1:5]]
        headers.append("CPU, other / this")
    rows = [headers, ["---"] * len(headers)]
    for row, _, _ in ROWS:
        cells = [row]
        for checkout in checkouts:
            result, torch = found[row, checkout], found["`import torch`", checkout]
            cells += [f"{result.cpu:.2f}", f"{result.wall:.2f}", f"{result.modules}"]
            cells.append(f"{result.cpu / torch.cpu:.2f}")
        if len(checkouts) > 1:
            this, other = (found[row, checkout].cpu for checkout in checkouts)
            cells.append(f"{other / this:.1f}")
        rows.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (%(default)s)")
    args = parser.parse_args()
    checkouts = [ROOT, *([args.against.resolve()] if args.against else [])]
    if args.against and not (checkouts[1] / EXPERIMENT).is_dir():
        parser.error(f"--against {args.against} is not a checkout: it has no {EXPERIMENT}.")
    print(table(measure(checkouts, args.rounds), checkouts))


if __name__ == "__main__":
    main()
