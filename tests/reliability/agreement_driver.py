"""Run pods_check, pods_train, pods_test and --fix on each variant of a data set.

A process of its own that imports everything once and forks a child for each command:
python agreement_driver.py EXPERIMENT FOLDER [NAME ...]. Prints a line of json for each variant.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import cvpods_ext.configs  # noqa: F401 - what the experiment imports is imported here, once
import cvpods_ext.deploy  # noqa: F401
import cvpods_ext.modeling  # noqa: F401
from cvpods.tools.check import main as pods_check
from cvpods.tools.draw import main as pods_draw
from cvpods.tools.test import main as pods_test
from cvpods.tools.train import main as pods_train
from cvpods_ext.deploy.export_tool import main as pods_export
from tests.reliability.variants import REFUSED, VARIANTS, make_data

Main = Callable[[Sequence[str]], None]
# Of these, all commands run: one for each kind of id, and a folder with a blank in its name.
THOROUGH = ("ids above 2^63", "ids as UUIDs", "ids as floats", "nested folders")


class Commands:
    """The commands on one data set, each in a forked child; their output is kept."""

    def __init__(self, experiment: Path, folder: Path) -> None:
        self.experiment, self.folder = experiment, folder
        folder.mkdir(parents=True)

    def run(self, main: Main, *words: str, data: str = "") -> tuple[int, str]:
        """Return the exit status and everything that was printed; `data` names the json file."""
        console = self.folder / "console.txt"
        pid = os.fork()
        if pid == 0:
            self._child(main, words, data, console)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = console.read_text(errors="replace")
        if "Traceback" in said:
            raise AssertionError(f"{main.__module__} {words}: {said[-3000:]}")
        return status, said

    def _child(self, main: Callable, words: Sequence[str], data: str, console: Path) -> None:
        status = 1
        try:
            os.chdir(self.experiment)
            os.environ["VARIANT"] = str(self.folder)
            os.environ["VARIANT_JSON"] = data or "train.json"
            log = os.open(console, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            main(list(words))
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            with contextlib.suppress(OSError):
                traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def output(self, name: str) -> list[str]:
        return ["OUTPUT_DIR", str(self.folder / name)]

    def train(self, name: str, *words: str, data: str = "") -> tuple[int, str]:
        return self.run(pods_train, "--num-gpus", "0", *words, *self.output(name), data=data)

    def test(self, name: str, weights: Path, data: str = "") -> tuple[int, str]:
        words = ["--num-gpus", "0", "MODEL.WEIGHTS", str(weights), *self.output(name)]
        return self.run(pods_test, *words, data=data)

    def ap(self, name: str) -> float | None:
        """The AP that pods_test wrote, wherever in the output folder."""
        (path,) = (self.folder / name).rglob("results.json")
        return json.loads(path.read_text()).get("bbox", {}).get("AP")


def kinds_of(said: str, gravity: str) -> list[str]:
    """The kinds of findings of a gravity in pods_check's table."""
    rows = (re.split(r"\s{2,}", line) for line in said.splitlines())
    return [row[1] for row in rows if row[0] == gravity]


def look_at(commands: Commands, outcome: str, weights: Path) -> dict:
    """Run the four commands; return what they did."""
    check, table = commands.run(
        pods_check, "--dataset", "variant", "--fix", str(commands.folder / "fixed.json")
    )
    record = {"check": check, "errors": kinds_of(table, "error"), "table": table}
    record["train"], said = commands.train("trained")
    record["train_said"] = said[-5000:]
    record["test"], said = commands.test("tested", weights)
    record["test_said"] = said[-2000:]
    if record["test"] == 0:
        record["ap"] = commands.ap("tested")
    if outcome == REFUSED:
        record["fixed"], record["fixed_said"] = commands.run(
            pods_check, "--dataset", "variant", data="fixed.json"
        )
        record["train_fixed"], _ = commands.train("trained_fixed", data="fixed.json")
    return record


def thoroughly(commands: Commands, weights: Path) -> dict[str, int]:
    """Exit statuses of what else must run on what pods_check accepts."""
    draw = ["--output", str(commands.folder / "drawn.png")]
    graph = str(commands.folder / "network.onnx")
    weighted = ["MODEL.WEIGHTS", str(weights)]
    return {
        "resume": commands.train("trained", "--resume", "SOLVER.LR_SCHEDULER.MAX_ITER", "3")[0],
        "draw": commands.run(pods_draw, *draw, *commands.output("trained"))[0],
        "export": commands.run(pods_export, "--output", graph, *weighted, *commands.output("e"))[0],
        "test graph": commands.test("graph", Path(graph))[0],
    }


def run(experiment: Path, folder: Path, names: Sequence[str]) -> None:
    base = Commands(experiment, folder / "base")
    content = make_data(base.folder / "images")
    (base.folder / "train.json").write_text(json.dumps(content))
    status, said = base.train("trained", "SOLVER.LR_SCHEDULER.MAX_ITER", "60")
    assert status == 0, said
    weights = base.folder / "trained" / "model_final.pth"
    status, said = base.test("tested", weights)
    assert status == 0, said
    for name in names or VARIANTS:
        begun = time.perf_counter()
        change, outcome = VARIANTS[name]
        commands = Commands(experiment, folder / "variant")
        content = make_data(commands.folder / "images")
        text = change(content, commands.folder / "images")
        (commands.folder / "train.json").write_text(text or json.dumps(content), encoding="utf-8")
        record = {"name": name, "outcome": outcome, **look_at(commands, outcome, weights)}
        if name in THOROUGH:
            record["also"] = thoroughly(commands, weights)
        record |= {"base_ap": base.ap("tested"), "seconds": time.perf_counter() - begun}
        print(json.dumps(record), flush=True)
        shutil.rmtree(commands.folder)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
