"""Detections that evaluations of an experiment have written to OUTPUT_DIR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.configs import BaseConfig
from cvpods.engine.testing import dataset_folder, inference_folder
from cvpods.evaluation.provenance import describe, describe_weights, read_provenance
from cvpods.utils.errors import DataError

DETECTIONS = "coco_instances_results.json"


@dataclass(frozen=True)
class Results:
    """Detections of one evaluation on one data set, and their provenance ({} if unknown)."""

    path: Path
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_file(cls, path: Path) -> Results:
        """Return the results of a file; results.json lies beside it or one folder above."""
        return cls(path, read_provenance(path.parent) or read_provenance(path.parent.parent))

    def caption(self, name: str) -> list[str]:
        """Return the lines under a picture of these detections on the data set `name`."""
        known = name in self.provenance.get("datasets", ())
        return describe(self.provenance, [name]) if known else [f"Detections: {self.path}"]

    def covers(self, name: str) -> bool:
        """Return whether these are detections on the data set `name`, as far as that is known."""
        folder, names = self.path.parent.name, list(self.provenance.get("datasets", ()))
        if folder in names or len(names) > 1:
            return folder == name
        own = folder == name or folder.startswith(("inference", "of_"))
        return names[0] == name if names else own

    def __str__(self) -> str:
        if not self.provenance:
            return str(self.path)
        weights = describe_weights(self.provenance)
        return f"{self.path} ({weights}, {self.provenance['date']})"


def find_results(cfg: BaseConfig, name: str) -> list[Results]:
    """Return all results on the data set `name` in OUTPUT_DIR.

    Those that agree with cfg.TEST.AUG (test-time augmentation or not) come first, then the newest.
    """
    output = Path(cfg.OUTPUT_DIR)
    paths = [p for top in ("inference", "inference_TTA") for p in (output / top).rglob(DETECTIONS)]
    found = [results for results in map(Results.of_file, paths) if results.covers(name)]
    wanted = inference_folder(cfg)

    def preference(results: Results) -> tuple[bool, float]:
        return wanted in results.path.parents, results.path.stat().st_mtime

    return sorted(found, key=preference, reverse=True)


def choose_results(
    cfg: BaseConfig, name: str, given: str | None = None, sha256: str = ""
) -> Results:
    """Return the results to work with, and name the others in the log.

    Args:
        given: the file that --results names; it is used as it is.
        sha256: prefer results of the weights with these first digits.

    Raises:
        DataError: `given` does not exist, or results on the data set are missing.
    """
    if given is not None:
        if not Path(given).is_file():
            raise DataError(f"--results {given} does not exist.")
        return Results.of_file(Path(given))
    found = find_results(cfg, name)
    if not found:
        place = dataset_folder(cfg, inference_folder(cfg), name) / DETECTIONS
        raise DataError(
            f"No results on {name!r}: {place} does not exist. Run pods_test first, or name a file "
            "with --results."
        )
    same = [r for r in found if sha256 and r.provenance and _digits(r) == sha256]
    chosen = (same or found)[0]
    others = [str(results) for results in found if results is not chosen]
    if others:
        choices = "\n".join(f"  {line}" for line in others)
        logger.info(
            f"Using {chosen}. There are other results on {name!r}; --results FILE chooses one of "
            f"them:\n{choices}"
        )
    return chosen


def _digits(results: Results) -> str:
    return str(results.provenance["weights"]["sha256"])
