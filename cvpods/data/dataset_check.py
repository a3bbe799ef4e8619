"""Checks of a data set in COCO's format before training, and the repaired content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cvpods.data.coco_records import AMBIGUOUS, CocoRecords, Record, read_records
from cvpods.data.conventions import (
    convert_box,
    duplicate_boxes,
    report_conventions,
    root_classes,
)
from cvpods.data.findings import MANY_BOXES, Report
from cvpods.data.image_file_check import check_image_files
from cvpods.utils.coco_values import clip_box, has_area, names_of

# Boxes below the finest stride are reported from this share on; standard COCO training has 1 %.
_SMALL_SHARE = 0.05
# Key of a box whose negative size was reversed.
_REVERSED = "reversed"


class Resizing(NamedTuple):
    """The size to which training resizes images, and the stride of its locations, in pixels."""

    short_edge: int
    max_size: int
    stride: int

    def scale(self, height: int, width: int) -> float:
        """Return the factor by which an image is resized."""
        short, long = sorted((height, width))
        return min(self.short_edge / short, self.max_size / long)


def check_coco(
    name: str,
    content: Any,
    image_root: str | Path,
    *,
    num_classes: int | None = None,
    files: int | None = None,
    box_format: str = "xywh",
    resizing: Resizing | None = None,
    max_pixels: int | None = None,
) -> tuple[Report, dict[str, Any]]:
    """Check the content of a COCO file.

    Args:
        content: the return value of json.load(), of any type.
        num_classes: number of classes of the model; None skips the comparison.
        files: number of image files, drawn at random, to open and decode; None decodes all.
        box_format: the format of the file's boxes, one of BOX_FORMATS.
        resizing: how training resizes images, to find boxes that are too small for any location;
            None skips this check.
        max_pixels: see read_image().

    Returns:
        The report, and the content in which errors are repaired or left out, see findings.py.
    """
    report = Report(name)
    records = read_records(content, report)
    _check_classes(records, num_classes, report)
    check_image_files(records, Path(image_root), files, max_pixels, report)
    _convert_boxes(records, box_format)
    report_conventions(records, report)
    repaired = _check_boxes(records, report)
    if resizing is not None:
        _check_small_boxes(records, resizing, report)
    _count_records(records, report)
    content = content if isinstance(content, Mapping) else {}
    return report, _usable_content(content, records, repaired)


def _check_classes(records: CocoRecords, num_classes: int | None, report: Report) -> None:
    categories = records.categories
    for name, count in Counter(c["name"] for c in categories.values()).items():
        if count > 1:
            report.add("duplicate category name", name)
    if not categories and not report.found["malformed record"]:
        report.add("malformed record", "'categories' is []")
    if num_classes is not None and len(categories) != num_classes:
        actual = f"{report.name!r} has {len(categories)} classes"
        report.add("NUM_CLASSES", f"NUM_CLASSES {num_classes}, but {actual}")


# -- boxes -----------------------------------------------------------------------------------------


def _convert_boxes(records: CocoRecords, box_format: str) -> None:
    if box_format == "xywh":
        return
    annotations = [*records.annotations, *records.without_area]
    for annotation in annotations:
        image = records.images.get(annotation["image_id"])
        if image is not None and image["width"] and image["height"]:
            width, height = image["width"], image["height"]
            annotation["bbox"] = convert_box(annotation["bbox"], box_format, width, height)
            annotation.pop("area", None)
    records.annotations = [a for a in annotations if has_area(a["bbox"])]
    records.without_area = [a for a in annotations if not has_area(a["bbox"])]


def _check_boxes(records: CocoRecords, report: Report) -> list[Record]:
    """Keep the boxes that training uses, clipped to their images.

    Returns:
        The boxes that --fix writes: each box once, with negative sizes reversed.
    """
    boxes = [*records.annotations, *map(_reverse_negative_size, records.without_area)]
    copies = {id(copy) for _, copy in duplicate_boxes(boxes)}
    used, repaired = [], []
    for annotation in boxes:
        image = records.images.get(annotation["image_id"])
        if image is None or image.get(AMBIGUOUS):
            report.add("box of an image that is left out", f"annotation {annotation['id']}")
            continue
        box = _clip_to_image(annotation, image, report) if has_area(annotation["bbox"]) else None
        if box is None:
            continue
        clipped = {**annotation, "bbox": box}
        if box != annotation["bbox"]:
            clipped.pop("area", None)  # the old value is the area of the complete object
        if _REVERSED not in annotation:
            used.append(clipped)
        if id(annotation) not in copies:
            repaired.append(clipped)
    records.annotations = used
    return repaired


def _reverse_negative_size(annotation: Record) -> Record:
    """Return the annotation with a negative width or height measured from the opposite side."""
    x, y, width, height = annotation["bbox"]
    box = [min(x, x + width), min(y, y + height), abs(width), abs(height)]
    return {**annotation, "bbox": box, _REVERSED: True}


def _clip_to_image(annotation: Record, image: Record, report: Report) -> list[float] | None:
    """Return the box, clipped if it extends beyond the image; None if it lies outside."""
    x, y, width, height = box = annotation["bbox"]
    if image["width"] is None or image["height"] is None:
        return box
    where = f"annotation {annotation['id']}: {box}"[:80]
    clipped = clip_box(box, image["width"], image["height"])
    if clipped is None:
        report.add("box outside the image", where)
        return None
    beyond = max(-x, -y, x + width - image["width"], y + height - image["height"])
    if beyond <= 1:  # rounding
        return box
    report.add("box partly outside", where)
    return clipped


def _check_small_boxes(records: CocoRecords, resizing: Resizing, report: Report) -> None:
    """Count boxes with a side below the finest stride after their image is resized."""
    small = total = 0
    for annotation in records.annotations:
        image = records.images[annotation["image_id"]]
        if annotation.get("iscrowd") or not (image["width"] and image["height"]):
            continue
        total += 1
        scale = resizing.scale(image["height"], image["width"])
        small += min(annotation["bbox"][2:]) * scale < resizing.stride
    if small and small >= _SMALL_SHARE * total:
        report.add(
            "boxes below the finest stride",
            f"{100 * small / total:.0f} % of the boxes ({small:,} of {total:,}) are smaller than "
            f"the finest stride, {resizing.stride} pixels, after resizing",
        )


# -- counts and output -----------------------------------------------------------------------------


def _count_records(records: CocoRecords, report: Report) -> None:
    """Count boxes by class and by image, crowds, and classes and images without boxes."""
    names = names_of(records.categories)
    report.images, report.boxes = len(records.images), len(records.annotations)
    per_class = Counter(a["category_id"] for a in records.annotations)
    report.per_class = {name: per_class[id_] for id_, name in names.items()}
    roots = root_classes(records)
    for id_, name in names.items():
        if id_ in roots:
            report.add("root class", f"{name} (id {id_})")
        elif not per_class[id_] and records.has_annotations:
            report.add("class without boxes", name)
    crowds = [a for a in records.annotations if a.get("iscrowd")]
    for annotation in crowds:
        report.add("crowd box", f"annotation {annotation['id']}")
    if not records.images and not report.count("error"):
        report.add("no image at all", "the list 'images' is empty")
    if not records.has_annotations:
        report.add("no box at all", "the file has no list 'annotations'")
    elif crowds and len(crowds) == len(records.annotations):
        report.add("no box at all", "all boxes are crowds (iscrowd 1), which training leaves out")
    elif not records.annotations:
        report.add("no box at all", "the list 'annotations' has no box that training can use")
    if records.has_annotations:
        _count_boxes_per_image(records, report)


def _count_boxes_per_image(records: CocoRecords, report: Report) -> None:
    counts = Counter(a["image_id"] for a in records.annotations)
    for id_, image in records.images.items():
        if not counts[id_]:
            report.add("image without boxes", image["file_name"])
        elif counts[id_] > MANY_BOXES:
            report.add(f"more than {MANY_BOXES:,} boxes", f"{image['file_name']}: {counts[id_]:,}")


def _usable_content(
    content: Mapping[str, Any], records: CocoRecords, annotations: Sequence[Record]
) -> dict[str, Any]:
    """Return the content of a file with the usable records only."""
    roots = root_classes(records) if annotations else set()
    images = [
        image
        for image in records.images.values()
        if image["height"] and image["width"] and not image.get(AMBIGUOUS)
    ]
    kept = {image["id"] for image in images}
    categories = [c for id_, c in records.categories.items() if id_ not in roots]
    other = {k: v for k, v in content.items() if k not in ("images", "annotations", "categories")}
    result = {**other, "images": images, "categories": categories}
    if records.has_annotations:
        usable = [a for a in annotations if a["image_id"] in kept]
        for annotation in usable:
            annotation.pop(_REVERSED, None)
        result["annotations"] = _with_unique_ids(usable)
    return result


def _with_unique_ids(records: list[Record]) -> list[Record]:
    """Assign an unused id to each annotation whose id is missing or repeated."""
    seen: set[int | str | None] = set()
    unused = max((r["id"] for r in records if isinstance(r["id"], int)), default=0) + 1
    texts = any(isinstance(r["id"], str) for r in records)
    for record in records:
        if record["id"] is None or record["id"] in seen:
            # A file's ids stay all numbers, or all texts.
            new = f"{record['id']}-{unused}" if texts else unused
            record["id"], unused = new, unused + 1
        seen.add(record["id"])
    return records
