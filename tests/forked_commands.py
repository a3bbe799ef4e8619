"""Commands run in forked children of a process that has imported everything once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cvpods.tools.test import main as pods_test
from cvpods.tools.train import main as pods_train
from tests.forking import fork, print_to, status_of
from tests.load_script import load_script

load_script("scripts/import_all.py").import_modules()  # the commands import them when needed

Main = Callable[[Sequence[str]], None]


class Commands:
    """The commands on one data set, each in a forked child; their output is kept."""

    def __init__(self, experiment: Path, folder: Path) -> None:
        self.experiment, self.folder = experiment, folder
        folder.mkdir(parents=True)

    def run(self, main: Main, *words: str, data: str = "") -> tuple[int, str]:
        """Return the exit status and everything that was printed; `data` names the json file."""
        console = self.folder / "console.txt"

        def work() -> None:
            os.chdir(self.experiment)
            os.environ["VARIANT"] = str(self.folder)
            os.environ["VARIANT_JSON"] = data or "train.json"
            print_to(console, os.O_TRUNC)
            main(list(words))

        status = status_of(fork(work))
        said = console.read_text(errors="replace")
        if "Traceback" in said:
            raise AssertionError(f"{main.__module__} {words}: {said[-3000:]}")
        return status, said

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
