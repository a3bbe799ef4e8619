"""Whole files that follow another convention than COCO's, recognised by their numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from posixpath import normpath
from typing import Any

from cvpods.data.coco_records import CocoRecords, Record
from cvpods.data.findings import Report
from cvpods.utils.files import existing_name

Box = list[float]


def _corners(box: Box) -> Box:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _centred(box: Box) -> Box:
    return [box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3]]


# Ways to write a box, and how each becomes x, y, width, height.
_READINGS: dict[str, Callable[[Box], Box]] = {"xywh": list, "xyxy": _corners, "cxcywh": _centred}
_FRACTIONS = "fractions-"
BOX_FORMATS = (*_READINGS, *(f"{_FRACTIONS}{name}" for name in _READINGS))
# Boxes are in a format if nearly all make sense so, and some do not as x, y, width, height.
_MOST = 0.95
_SOME = 0.2
_AT_LEAST = 3


def convert_box(box: Box, box_format: str, width: float, height: float) -> Box:
    """Return x, y, width, height in pixels of a box in one of BOX_FORMATS."""
    if box_format.startswith(_FRACTIONS):
        box = [value * side for value, side in zip(box, (width, height) * 2, strict=True)]
    return _READINGS[box_format.removeprefix(_FRACTIONS)](box)


def guess_format(boxes: Sequence[tuple[Box, Record]]) -> str:
    """Return the one of BOX_FORMATS in which the boxes of a file make sense."""
    fractions = sum(all(-0.01 <= v <= 1.01 for v in box) for box, _ in boxes)
    large = max((max(image["width"], image["height"]) for _, image in boxes), default=0)
    prefix = _FRACTIONS if boxes and large > 2 and fractions >= _MOST * len(boxes) else ""
    fits = {}
    for name in _READINGS:
        converted = ((convert_box(b, prefix + name, i["width"], i["height"]), i) for b, i in boxes)
        fits[name] = sum(_lies_inside(box, image) for box, image in converted)
    best = max(fits, key=lambda name: fits[name])
    beyond = len(boxes) - fits["xywh"]
    clearly = fits[best] >= _MOST * len(boxes) and beyond >= max(_SOME * len(boxes), _AT_LEAST)
    return prefix + (best if boxes and clearly else "xywh")


def _lies_inside(box: Box, image: Record) -> bool:
    """Return whether x, y, width, height is a box inside an image, but for a pixel of rounding."""
    x, y, width, height = box
    inside = (
        min(x, y) >= -1 and x + width <= image["width"] + 1 and y + height <= image["height"] + 1
    )
    return inside and width > 0 and height > 0


def look_for_conventions(records: CocoRecords, report: Report) -> None:
    """Report boxes in another format, and files and boxes that occur twice."""
    boxes = [
        (a["bbox"], image)
        for a in (*records.annotations, *records.without_box)
        if (image := records.images.get(a["image_id"])) and image["width"] and image["height"]
    ]
    found = guess_format(boxes)
    if found != "xywh":
        report.add("boxes in another format", f"{found}, for example {boxes[0][0]}"[:100])
    ids_of: dict[str, list[Any]] = defaultdict(list)
    for id_, image in records.images.items():
        ids_of[normpath(image["file_name"])].append(id_)
    for name, ids in ids_of.items():
        if len(ids) > 1:
            report.add("one file under two ids", f"{name}: ids {ids}")
    for first, second in same_boxes((*records.annotations, *records.without_box)):
        report.add("the same box twice", f"annotations {first['id']} and {second['id']}")


def same_boxes(annotations: Iterable[Record]) -> list[tuple[Record, Record]]:
    """Return (first, copy) of annotations with the same image, class and box."""
    seen: dict[tuple, Record] = {}
    twice = []
    for annotation in annotations:
        flags = (annotation.get("iscrowd", 0), annotation.get("ignore", 0))
        key = (annotation["image_id"], annotation["category_id"], *annotation["bbox"], *flags)
        if key in seen:
            twice.append((seen[key], annotation))
        seen.setdefault(key, annotation)
    return twice


def root_classes(records: CocoRecords) -> set[Any]:
    """Return the ids of classes without boxes that are the supercategory of others.

    Exporters add them as the root of the real classes. Where nothing would be left, there are none.
    """
    used = {annotation["category_id"] for annotation in records.annotations}
    parents = Counter(str(c.get("supercategory")) for c in records.categories.values())
    for category in records.categories.values():
        if category.get("supercategory") == category["name"]:
            parents[category["name"]] -= 1  # its own is not another's
    roots = {i for i, c in records.categories.items() if i not in used and parents[c["name"]] > 0}
    return roots if len(roots) < len(records.categories) else set()


def look_for_notations(images: Mapping[Any, Record], root: Path, report: Report) -> dict[Any, str]:
    """Return {image id: file name} of images whose files exist under another notation."""
    renamed = {}
    for id_, image in images.items():
        name = existing_name(root, image["file_name"])
        if name != image["file_name"]:
            report.add("file names in another notation", f"{image['file_name']}: {name} exists")
            renamed[id_] = name
    return renamed
