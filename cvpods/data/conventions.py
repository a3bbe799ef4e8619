"""Whole files that follow another convention than COCO's, recognised by their numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cvpods.data.coco_records import CocoRecords, Record
from cvpods.data.findings import Report
from cvpods.utils.files import existing_name

# Ways to write a box, and how each becomes x, y, width, height: (box, image width, image height).
BOX_FORMATS: dict[str, Callable[[list[float], float, float], list[float]]] = {
    "xywh": lambda box, width, height: box,
    "xyxy": lambda box, width, height: [box[0], box[1], box[2] - box[0], box[3] - box[1]],
    "fractions": lambda box, width, height: [
        box[0] * width,
        box[1] * height,
        box[2] * width,
        box[3] * height,
    ],
}
# Boxes are corners if nearly all make sense as such, and some do not as x, y, width, height.
_MOST = 0.95
_SOME = 0.2


def look_for_conventions(records: CocoRecords, report: Report) -> None:
    """Report boxes in another convention, files and boxes that occur twice, and a root class."""
    boxes = [
        (a["bbox"], image)
        for a in (*records.annotations, *records.without_box)
        if (image := records.images.get(a["image_id"])) and image["width"] and image["height"]
    ]
    if boxes and _are_fractions(boxes):
        report.add("boxes written as fractions", f"all coordinates are at most 1: {boxes[0][0]}")
    elif boxes and _are_corners(boxes):
        report.add("boxes written as x1, y1, x2, y2", f"for example {boxes[0][0]}")
    ids_of: dict[str, list[Any]] = defaultdict(list)
    for id_, image in records.images.items():
        ids_of[image["file_name"]].append(id_)
    for name, ids in ids_of.items():
        if len(ids) > 1:
            report.add("one file under two ids", f"{name}: ids {ids}")
    for first, second in same_boxes(records.annotations):
        report.add("the same box twice", f"annotations {first['id']} and {second['id']}")


def _are_fractions(boxes: Sequence[tuple[list[float], Record]]) -> bool:
    return all(0 <= value <= 1 for box, _ in boxes for value in box) and any(
        image["width"] > 2 for _, image in boxes
    )


def _are_corners(boxes: Sequence[tuple[list[float], Record]]) -> bool:
    """Return whether nearly all boxes lie inside as corners, and many do not as x, y, w, h."""
    as_corners = sum(
        0 <= x1 < x2 <= image["width"] + 1 and 0 <= y1 < y2 <= image["height"] + 1
        for (x1, y1, x2, y2), image in boxes
    )
    beyond = sum(
        x + width > image["width"] + 1 or y + height > image["height"] + 1
        for (x, y, width, height), image in boxes
    )
    return as_corners >= _MOST * len(boxes) and beyond >= max(1, _SOME * len(boxes))


def same_boxes(annotations: Iterable[Record]) -> list[tuple[Record, Record]]:
    """Return (first, copy) of annotations with the same image, class and box."""
    seen: dict[tuple, Record] = {}
    twice = []
    for annotation in annotations:
        key = (annotation["image_id"], annotation["category_id"], *annotation["bbox"])
        if key in seen:
            twice.append((seen[key], annotation))
        seen.setdefault(key, annotation)
    return twice


def root_classes(records: CocoRecords) -> set[Any]:
    """Return the ids of classes without boxes that are the supercategory of others.

    Exporters add them as the root of the real classes. Where nothing would be left, there are none.
    """
    used = {annotation["category_id"] for annotation in records.annotations}
    roots = {
        id_
        for id_, category in records.categories.items()
        if id_ not in used and _has_children(id_, category["name"], records)
    }
    return roots if len(roots) < len(records.categories) else set()


def _has_children(id_: Any, name: str, records: CocoRecords) -> bool:
    return any(
        other != id_ and category.get("supercategory") == name
        for other, category in records.categories.items()
    )


def look_for_notations(images: Mapping[Any, Record], root: Path, report: Report) -> dict[Any, str]:
    """Return {image id: file name} of images whose files exist under another notation."""
    renamed = {}
    for id_, image in images.items():
        name = existing_name(root, image["file_name"])
        if name != image["file_name"]:
            report.add("file names in another notation", f"{image['file_name']}: {name} exists")
            renamed[id_] = name
    return renamed
