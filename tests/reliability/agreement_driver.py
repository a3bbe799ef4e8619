"""Run pods_check, pods_train, pods_test and --fix on each variant of a data set.

A process of its own that imports everything once and forks a child for each command:
python agreement_driver.py EXPERIMENT FOLDER [NAME ...]. Prints a line of json for each variant.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cvpods.tools.check import main as pods_check
from cvpods.tools.draw import main as pods_draw
from cvpods_ext.tools.export import main as pods_export
from tests.forked_commands import Commands
from tests.reliability.variants import REFUSED, VARIANTS, make_data

# All commands run on these: one for each kind of id, and a folder with a blank in its name.
THOROUGH = ("ids above 2^63", "ids as UUIDs", "ids as floats", "nested folders")


def kinds_of(said: str, gravity: str) -> list[str]:
    """Return the kinds of findings of a gravity in pods_check's table."""
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
