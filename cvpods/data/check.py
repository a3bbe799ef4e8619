"""Examine a data set in COCO's format before training, and write it without what is wrong.

Reads leniently what COCODataset refuses, so that one look names everything.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from cvpods.data.datasets.coco import box_numbers, is_id, is_size
from cvpods.data.detection_utils import read_image
from cvpods.utils.errors import DataError

MANY_BOXES = 1000
_EXAMPLES = 3

# What is looked for: (what it is called, how grave). An "error" is refused or breaks off training;
# a "warning" is left out or clipped by the loader; a "note" is only worth knowing.
KINDS = {
    "malformed record": "error",
    "duplicate image id": "error",
    "duplicate annotation id": "error",
    "duplicate category id": "error",
    "unknown image id": "error",
    "unknown category id": "error",
    "NUM_CLASSES": "error",
    "missing file": "error",
    "corrupt file": "error",
    "other size than annotated": "error",
    "no box at all": "error",
    "malformed box": "warning",
    "NaN or infinite box": "warning",
    "zero or negative box": "warning",
    "box outside the image": "warning",
    "duplicate category name": "warning",
    "class without boxes": "warning",
    "box partly outside": "note",
    "image without boxes": "note",
    f"more than {MANY_BOXES:,} boxes": "note",
    "crowd box": "note",
}


@dataclass
class Report:
    """What was found: {kind: [where, ...]}, and what was looked at."""

    name: str
    images: int = 0
    boxes: int = 0
    per_class: dict[str, int] = field(default_factory=dict)
    files_read: int = 0
    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, where: Any) -> None:
        assert kind in KINDS, kind
        self.found[kind].append(str(where))

    def count(self, grave: str) -> int:
        """Findings of a gravity: "error", "warning" or "note"."""
        return sum(len(where) for kind, where in self.found.items() if KINDS[kind] == grave)

    def __str__(self) -> str:
        """The table."""
        rows = [
            (KINDS[kind], kind, len(self.found[kind]), _examples(self.found[kind]))
            for kind in KINDS
            if self.found.get(kind)
        ]
        head = (
            f"{self.name}: {self.images:,} images, {self.boxes:,} boxes, {self.files_read:,} image "
            "files read"
        )
        classes = ", ".join(f"{name} {count:,}" for name, count in self.per_class.items())
        table = tabulate(rows, headers=["", "what", "count", "where"]) if rows else "Nothing wrong."
        return f"{head}\nBoxes by class: {classes or 'none'}\n\n{table}"


def _examples(where: Sequence[str]) -> str:
    text = "; ".join(str(w)[:60] for w in where[:_EXAMPLES])
    return text + ("; ..." if len(where) > _EXAMPLES else "")


def check_coco(
    name: str,
    content: Any,
    image_root: str | Path,
    *,
    num_classes: int | None = None,
    files: int | None = None,
) -> tuple[Report, dict[str, Any]]:
    """Examine the content of a COCO file.

    Args:
        content: what json.load() gave: anything.
        num_classes: of the model; None is not compared.
        files: how many image files, drawn at random, are opened and decoded; None: all of them.

    Returns:
        The report, and the content with what is wrong left out: boxes are clipped to their images,
        annotations and images that cannot be used dropped, repeated annotation ids numbered anew.
    """
    report = Report(name)
    content = content if isinstance(content, Mapping) else {}
    categories = _categories(content, report, num_classes)
    images = _images(content, report)
    _read_files(images, Path(image_root), report, files)
    annotations = _annotations(content, images, categories, report)
    report.images, report.boxes = len(images), len(annotations)
    names = {id_: str(category["name"]) for id_, category in categories.items()}
    counts = Counter(names[a["category_id"]] for a in annotations)
    report.per_class = {label: counts[label] for label in names.values()}
    for label, count in report.per_class.items():
        if not count:
            report.add("class without boxes", label)
    if "annotations" in content and all(a.get("iscrowd") for a in annotations):
        report.add("no box at all", "the whole data set")
    mended = {
        **{k: v for k, v in content.items() if k not in ("images", "annotations", "categories")},
        "images": list(images.values()),
        "categories": list(categories.values()),
        "annotations": annotations,
    }
    return report, mended


def _records(
    content: Mapping[str, Any], section: str, keys: Sequence[str], report: Report
) -> list[dict[str, Any]]:
    """The section's records that have the keys, with ids that can be compared."""
    records = content.get(section, [] if section == "annotations" else None)
    if not isinstance(records, list):
        report.add("malformed record", f"no list {section!r}")
        return []
    usable = []
    for position, record in enumerate(records):
        missing = [k for k in keys if not isinstance(record, Mapping) or k not in record]
        ids = [] if missing else [record[k] for k in keys if k == "id" or k.endswith("_id")]
        if missing:
            report.add("malformed record", f"{section}[{position}] lacks {missing}")
        elif not all(is_id(value) for value in ids):
            report.add("malformed record", f"{section}[{position}] has the ids {ids}")
        else:
            usable.append(dict(record))
    kinds = Counter(type(record["id"]) for record in usable)
    usual = kinds.most_common(1)[0][0] if kinds else int
    for record in usable:
        if type(record["id"]) is not usual:
            report.add("malformed record", f"{section}: id {record['id']!r} is no {usual.__name__}")
    return [record for record in usable if type(record["id"]) is usual]


def _unique(records: Sequence[dict[str, Any]], kind: str, report: Report) -> dict[Any, dict]:
    """{id: record}, the first of each id."""
    unique: dict[Any, dict] = {}
    for record in records:
        if record["id"] in unique:
            report.add(kind, f"id {record['id']}")
        unique.setdefault(record["id"], record)
    return unique


def _categories(
    content: Mapping[str, Any], report: Report, num_classes: int | None
) -> dict[Any, dict]:
    records = _records(content, "categories", ("id", "name"), report)
    for record in [r for r in records if not isinstance(r["name"], str)]:
        report.add("malformed record", f"category {record['id']}: name {record['name']!r:.60}")
    records = [r for r in records if isinstance(r["name"], str)]
    categories = _unique(records, "duplicate category id", report)
    for name, count in Counter(c["name"] for c in categories.values()).items():
        if count > 1:
            report.add("duplicate category name", name)
    if num_classes is not None and len(categories) != num_classes:
        report.add("NUM_CLASSES", f"{num_classes}, but there are {len(categories)} categories")
    return categories


def _images(content: Mapping[str, Any], report: Report) -> dict[Any, dict]:
    records = _records(content, "images", ("id", "file_name", "height", "width"), report)
    usable = []
    for record in records:
        sizes = [record[k] for k in ("height", "width")]
        if not all(map(is_size, sizes)) or not isinstance(record["file_name"], str):
            where = f"image {record['id']}: {record['file_name']!r:.60}, {sizes!r:.60}"
            report.add("malformed record", where)
        else:
            usable.append(record)
    return _unique(usable, "duplicate image id", report)


def _read_files(images: dict[Any, dict], root: Path, report: Report, files: int | None) -> None:
    """Decode image files, several at once; those that cannot be used leave `images`."""
    if files == 0:
        return
    chosen = list(images.values())
    if files is not None and files < len(chosen):
        chosen = random.Random(0).sample(chosen, files)
    with ThreadPoolExecutor() as pool:
        problems = pool.map(lambda record: _problem(record, root), chosen)
        for record, problem in zip(chosen, problems, strict=True):
            if problem is not None:
                report.add(problem[0], problem[1])
                del images[record["id"]]
    report.files_read = len(chosen)


def _problem(record: Mapping[str, Any], root: Path) -> tuple[str, str] | None:
    path = root / record["file_name"]
    try:
        if not path.is_file():
            return "missing file", str(path)
        height, width = read_image(path).shape[:2]
    except (DataError, ValueError) as error:  # ValueError: a NUL in the path
        return "corrupt file", f"{path}: {error}"
    if (height, width) != (record["height"], record["width"]):
        said = f"{record['width']} x {record['height']}"
        return "other size than annotated", f"{path}: {width} x {height}, annotated {said}"
    return None


def _annotations(  # noqa: C901 - one branch for each thing that may be wrong
    content: Mapping[str, Any],
    images: Mapping[Any, dict],
    categories: Mapping[Any, dict],
    report: Report,
) -> list[dict[str, Any]]:
    keys = ("id", "image_id", "category_id", "bbox")
    records = _records(content, "annotations", keys, report)
    listed = content["images"] if isinstance(content.get("images"), list) else []
    named = [image.get("id") for image in listed if isinstance(image, Mapping)]
    dropped = {id_ for id_ in named if is_id(id_)}  # their images have been reported
    usable = []
    for record in records:
        if record["category_id"] not in categories:
            where = f"{record['category_id']} of annotation {record['id']}"
            report.add("unknown category id", where)
        elif record["image_id"] not in images:
            if record["image_id"] not in dropped:
                report.add("unknown image id", f"{record['image_id']} of annotation {record['id']}")
        elif (box := _checked_box(record, images[record["image_id"]], report)) is not None:
            usable.append({**record, "bbox": box})
    counts = Counter(record["image_id"] for record in usable)
    for id_, image in images.items():
        if not counts[id_] and "annotations" in content:
            report.add("image without boxes", image["file_name"])
        elif counts[id_] > MANY_BOXES:
            report.add(f"more than {MANY_BOXES:,} boxes", f"{image['file_name']}: {counts[id_]:,}")
    for record in usable:
        if record.get("iscrowd"):
            report.add("crowd box", f"annotation {record['id']}")
    return _numbered_anew(usable, report)


def _checked_box(
    record: Mapping[str, Any], image: Mapping[str, Any], report: Report
) -> list[float] | None:
    """The box x, y, width, height, clipped to the image where it reaches beyond; None where it is
    none.
    """
    where = f"annotation {record['id']}: {str(record['bbox'])[:60]}"
    try:
        x, y, width, height = box_numbers(record["bbox"])
    except ValueError:
        report.add("malformed box", where)
        return None
    if not all(math.isfinite(value) and abs(value) < 1e7 for value in (x, y, width, height)):
        report.add("NaN or infinite box", where)
        return None
    if width <= 0 or height <= 0:
        report.add("zero or negative box", where)
        return None
    x1, y1 = max(x, 0.0), max(y, 0.0)
    x2, y2 = min(x + width, image["width"]), min(y + height, image["height"])
    if x2 <= x1 or y2 <= y1:
        report.add("box outside the image", where)
        return None
    beyond = max(-x, -y, x + width - image["width"], y + height - image["height"])
    if beyond <= 1:  # rounding
        return list(record["bbox"])
    report.add("box partly outside", where)
    return [x1, y1, x2 - x1, y2 - y1]


def _numbered_anew(records: list[dict[str, Any]], report: Report) -> list[dict[str, Any]]:
    """Repeated ids become numbers that no annotation has."""
    seen: set[Any] = set()
    free = max((r["id"] for r in records if isinstance(r["id"], int)), default=0) + 1
    for record in records:
        if record["id"] in seen:
            report.add("duplicate annotation id", f"id {record['id']}")
            # Of the same kind: a file's ids are all numbers, or all texts.
            anew = free if isinstance(record["id"], int) else f"{record['id']}-{free}"
            record["id"], free = anew, free + 1
        seen.add(record["id"])
    return records
