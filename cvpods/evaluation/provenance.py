"""Provenance of results: the weights, data, date, version and command that produced them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import cvpods
from cvpods.checkpoint.atomic import write_file
from cvpods.checkpoint.origin import Origin
from cvpods.evaluation.testing import without_nan

RESULTS = "results.json"
# Key of the provenance in results.json. The other keys are tasks, or data sets if several.
ENTRY = "provenance"


def provenance(origin: Origin, datasets: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance entry of results.json.

    Args:
        origin: origin of the model's weights.
        datasets: the evaluated data sets, by name.
    """
    return {
        "weights": {
            "path": origin.weights,
            "sha256": origin.sha256,
            "iteration": origin.iteration,
        },
        "datasets": {name: _describe_data(dataset) for name, dataset in datasets.items()},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": cvpods.__version__,
        "commit": git_commit(),
        "command": command_line(),
    }


def _describe_data(dataset: Any) -> dict[str, Any]:
    meta = dataset.meta if isinstance(dataset.meta, Mapping) else vars(dataset.meta)
    parts = getattr(dataset, "datasets", [dataset])
    samples = (s for part in parts for s in getattr(part, "dataset_dicts", []))
    return {
        "annotations": str(meta.get("json_file") or meta.get("image_root", "")),
        "images": len(dataset),
        "boxes": sum(len(sample.get("annotations", [])) for sample in samples),
    }


@cache
def git_commit() -> str:
    """Return the commit of the checkout that contains this package, or "" outside a checkout.

    A suffix "-dirty" means that tracked files were changed.
    """
    checkout = Path(cvpods.__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def command_line() -> str:
    """Return the command line, with the program's name instead of its path."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe_weights(entry: Mapping[str, Any]) -> str:
    """Return the weights of a provenance entry in words: path, hash and iteration."""
    weights = entry["weights"]
    path = weights["path"] or "weights in memory"
    digits = f" (sha256 {weights['sha256']})" if weights["sha256"] else ""
    iteration = weights["iteration"]
    return f"{path}{digits}" + (f", iteration {iteration}" if iteration is not None else "")


def describe(entry: Mapping[str, Any], names: Sequence[str] = ()) -> list[str]:
    """Return the lines that describe a provenance entry in a report or a caption.

    Args:
        names: data sets to mention; by default all.
    """
    lines = [f"Weights: {describe_weights(entry)}"]
    for name in names or entry["datasets"]:
        data = entry["datasets"][name]
        lines.append(
            f"Data: {name}, {data['annotations']}, {data['images']} images, {data['boxes']} boxes"
        )
    commit = f" ({entry['commit']})" if entry["commit"] else ""
    lines.append(f"Date: {entry['date']}, cvpods-ext {entry['version']}{commit}")
    return [*lines, f"Command: {entry['command']}"]


def report_lines(entry: Mapping[str, Any], name: str) -> str:
    """Return the provenance as the end of a Markdown report on one data set; "" if it is empty."""
    return "\n" + "".join(f"- {line}\n" for line in describe(entry, [name])) if entry else ""


def write_results(folder: Path, results: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    """Write results.json atomically: either the complete file or nothing."""
    content = {**without_nan(results), ENTRY: entry}
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / RESULTS, (json.dumps(content, indent=1) + "\n").encode())


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return the provenance entry of a folder's results.json, or {} without a valid one."""
    try:
        entry = json.loads((folder / RESULTS).read_text(encoding="utf-8"))[ENTRY]
        describe(entry)
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return entry
