"""Detection of files that follow another convention than COCO's, from their numbers and names."""

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


def _from_corners(box: Box) -> Box:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _from_centre(box: Box) -> Box:
    return [box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3]]


# Box formats, each with its conversion to x, y, width, height.
_TO_XYWH: dict[str, Callable[[Box], Box]] = {
    "xywh": list,
    "xyxy": _from_corners,
    "cxcywh": _from_centre,
}
_FRACTIONS = "fractions-"
BOX_FORMATS = (*_TO_XYWH, *(f"{_FRACTIONS}{name}" for name in _TO_XYWH))
# A format is reported if at least _MIN_FITTING of the boxes lie inside their images in it, and at
# least _MIN_MISFITS of them, and _MIN_MISFIT_COUNT boxes, do not as x, y, width, height.
_MIN_FITTING = 0.95
_MIN_MISFITS = 0.2
_MIN_MISFIT_COUNT = 3


def convert_box(box: Box, box_format: str, width: float, height: float) -> Box:
    """Convert a box from one of BOX_FORMATS to x, y, width, height in pixels."""
    if box_format.startswith(_FRACTIONS):
        box = [value * side for value, side in zip(box, (width, height) * 2, strict=True)]
    return _TO_XYWH[box_format.removeprefix(_FRACTIONS)](box)


def guess_format(boxes: Sequence[tuple[Box, Record]]) -> str:
    """Return the format, one of BOX_FORMATS, in which the boxes lie inside their images.

    Args:
        boxes: each box with the record of its image.
    """
    fractions = sum(all(-0.01 <= v <= 1.01 for v in box) for box, _ in boxes)
    large = max((max(image["width"], image["height"]) for _, image in boxes), default=0)
    prefix = _FRACTIONS if boxes and large > 2 and fractions >= _MIN_FITTING * len(boxes) else ""
    fits = {}
    for name in _TO_XYWH:
        converted = ((convert_box(b, prefix + name, i["width"], i["height"]), i) for b, i in boxes)
        fits[name] = sum(_lies_inside(box, image) for box, image in converted)
    best = max(fits, key=lambda name: fits[name])
    misfits = len(boxes) - fits["xywh"]
    enough = misfits >= max(_MIN_MISFITS * len(boxes), _MIN_MISFIT_COUNT)
    clearly = fits[best] >= _MIN_FITTING * len(boxes) and enough
    return prefix + (best if boxes and clearly else "xywh")


def _lies_inside(box: Box, image: Record) -> bool:
    """Return whether x, y, width, height is a box inside an image, with 1 pixel of tolerance."""
    x, y, width, height = box
    inside = (
        min(x, y) >= -1 and x + width <= image["width"] + 1 and y + height <= image["height"] + 1
    )
    return inside and width > 0 and height > 0


def report_conventions(records: CocoRecords, report: Report) -> None:
    """Report boxes in another format, and files and boxes that occur twice."""
    boxes = [
        (a["bbox"], image)
        for a in (*records.annotations, *records.without_area)
        if (image := records.images.get(a["image_id"])) and image["width"] and image["height"]
    ]
    box_format = guess_format(boxes)
    if box_format != "xywh":
        report.add("boxes in another format", f"{box_format}, for example {boxes[0][0]}"[:100])
    ids_of: dict[str, list[int | str]] = defaultdict(list)
    for id_, image in records.images.items():
        ids_of[normpath(image["file_name"])].append(id_)
    for name, ids in ids_of.items():
        if len(ids) > 1:
            report.add("one file under two ids", f"{name}: ids {ids}")
    for first, second in duplicate_boxes((*records.annotations, *records.without_area)):
        report.add("the same box twice", f"annotations {first['id']} and {second['id']}")


def duplicate_boxes(annotations: Iterable[Record]) -> list[tuple[Record, Record]]:
    """Return pairs (first, copy) of annotations with the same image, class and box."""
    seen: dict[tuple[Any, ...], Record] = {}
    pairs = []
    for annotation in annotations:
        flags = (annotation.get("iscrowd", 0), annotation.get("ignore", 0))
        key = (annotation["image_id"], annotation["category_id"], *annotation["bbox"], *flags)
        if key in seen:
            pairs.append((seen[key], annotation))
        seen.setdefault(key, annotation)
    return pairs


def root_classes(records: CocoRecords) -> set[int | str]:
    """Return the ids of classes without boxes that are the supercategory of other classes.

    Exporters add them as the root of the real classes. If all classes meet the condition, return an
    empty set.
    """
    used = {annotation["category_id"] for annotation in records.annotations}
    parents = Counter(str(c.get("supercategory")) for c in records.categories.values())
    for category in records.categories.values():
        if category.get("supercategory") == category["name"]:
            parents[category["name"]] -= 1  # a class that is its own supercategory does not count
    roots = {i for i, c in records.categories.items() if i not in used and parents[c["name"]] > 0}
    return roots if len(roots) < len(records.categories) else set()


def existing_file_names(
    images: Mapping[int | str, Record], root: Path, report: Report
) -> dict[int | str, str]:
    """Return {image id: file name} of the images whose files exist under another notation."""
    renamed = {}
    for id_, image in images.items():
        name = existing_name(root, image["file_name"])
        if name != image["file_name"]:
            report.add("file names in another notation", f"{image['file_name']}: {name} exists")
            renamed[id_] = name
    return renamed
