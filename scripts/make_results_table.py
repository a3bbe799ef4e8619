"""Write the results table of README.md from the experiment folders.

    python scripts/make_results_table.py

Each row comes from a folder: from its docstring (title, Paper, Measured) and its network.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

import torch

from cvpods.tools.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results: scripts/make_results_table.py -->", "<!-- end of results -->"
HEADER = (
    "| folder | description | published AP: minival / test-dev | AP measured here | parameters |\n"
    "| --- | --- | --- | --- | --- |\n"
)


def describe(folder: Path) -> dict[str, str]:
    """Read config.py's docstring: {"title": first line, "Paper": ..., "Expected": ..., ...}."""
    docstring = (folder / "config.py").read_text(encoding="utf-8").split('"""')[1]
    title, _, rest = docstring.partition("\n\n")
    entries = {"title": title.rstrip(".")}
    name = ""
    for line in rest.strip().splitlines():
        if line[:1].isalpha():
            name, _, line = line.partition(" ")
        entries[name] = f"{entries.get(name, '')} {line.strip()}".strip()
    return entries


def paper_ap(text: str) -> str:
    """Extract the AP of the paper: "38.7 AP (minival), 38.7 (test-dev)" becomes "38.7 / 38.7".

    A split without a number becomes "-". A multi-scale test follows after a semicolon.
    """
    minival = re.findall(r"([\d.]+) AP \(minival\)", text)
    test_dev = re.findall(r"([\d.]+)(?: AP)? \(test-dev\)", text)
    if not minival and not test_dev:
        return "-"
    results = [f"{a} / {b}" for a, b in zip_longest(minival, test_dev, fillvalue="-")]
    return "; multi-scale test ".join(results)


def count_parameters(folder: Path) -> int:
    """Count the parameters of the network, without loading pretrained values."""
    config, build_model = load_experiment(folder)
    config.MODEL.DEVICE = "cpu"
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(config).parameters())


def row(folder: Path) -> str:
    """Return the table row of an experiment."""
    about = describe(folder)
    measured = about.get("Measured", "not measured")
    link = f"[{folder.name}](playground/{folder.name})"
    size = f"{count_parameters(folder) / 1e6:.1f} M"
    return f"| {link} | {about['title']} | {paper_ap(about['Paper'])} | {measured} | {size} |\n"


def table() -> str:
    """Return the table of all experiments."""
    folders = sorted(path.parent for path in (ROOT / "playground").glob("*/config.py"))
    return HEADER + "".join(row(folder) for folder in folders)


def with_table(readme: str) -> str:
    """Return the README's text with the table between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote the results table of {path}")
