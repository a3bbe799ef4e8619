"""Train and evaluate on BCCD as it is and as each dataset tool would export it.

python bccd_driver.py EXPERIMENT BCCD FOLDER [TOOL ...]. Prints a line of json for each. Every run
starts from the same weights, and every evaluation uses the same weights.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from cvpods.tools.check import main as pods_check
from tests.exports import EXPORTS
from tests.forked_commands import Commands

ITERATIONS = "SOLVER.LR_SCHEDULER.MAX_ITER"


def write(bccd: Path, folder: Path, split: str, tool: str | None) -> None:
    """Link the images of a split and write its annotations in the shape of a tool's export."""
    content = json.loads((bccd / "annotations" / f"instances_{split}.json").read_text())
    images = folder / split
    images.mkdir(parents=True)
    for image in content["images"]:
        os.symlink(bccd / split / image["file_name"], images / image["file_name"])
    if tool is not None:
        content = EXPORTS[tool](content, images)
    (folder / f"{split}.json").write_text(json.dumps(content))


def fix(commands: Commands, split: str) -> int:
    """Replace a split's annotations by what --fix writes; return the exit status."""
    fixed = str(commands.folder / "fixed.json")
    words = ["--quick", "--json", str(commands.folder / f"{split}.json"), "--images"]
    status, _ = commands.run(pods_check, *words, str(commands.folder / split), "--fix", fixed)
    os.replace(fixed, commands.folder / f"{split}.json")
    return status


def train_and_test(commands: Commands, start: Path, weights: Path) -> dict:
    """Train 20 iterations from `start`; evaluate `weights`."""
    train, said = commands.train("trained", "MODEL.WEIGHTS", str(start), ITERATIONS, "20")
    test, also_said = commands.test("tested", weights)
    ap = commands.ap("tested") if test == 0 else None
    return {"train": train, "test": test, "ap": ap, "said": said[-1000:] + also_said[-1000:]}


def run(experiment: Path, bccd: Path, folder: Path, pretrained: Path, tools: list[str]) -> None:
    base = Commands(experiment, folder / "base")
    for split in ("train", "val"):
        write(bccd, base.folder, split, None)
    status, said = base.train("weights", "MODEL.WEIGHTS", str(pretrained), ITERATIONS, "60")
    assert status == 0, said
    weights = base.folder / "weights" / "model_final.pth"
    print(json.dumps({"tool": "BCCD", **train_and_test(base, weights, weights)}), flush=True)
    for tool in tools or EXPORTS:
        commands = Commands(experiment, folder / "export")
        for split in ("train", "val"):
            write(bccd, commands.folder, split, tool)
            if tool == "Roboflow":  # its root class would be a fourth
                assert fix(commands, split) == 0
        print(json.dumps({"tool": tool, **train_and_test(commands, weights, weights)}), flush=True)
        shutil.rmtree(commands.folder)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
