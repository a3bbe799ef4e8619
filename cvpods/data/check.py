"""Examine a data set in COCO's format before training, and write it without what is wrong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cvpods.data.coco_records import AMBIGUOUS, CocoRecords, Record, read_records
from cvpods.data.conventions import (
    convert_box,
    look_for_conventions,
    look_for_notations,
    root_classes,
    same_boxes,
)
from cvpods.data.findings import KINDS, MANY_BOXES, Report
from cvpods.data.image_facts import ImageFacts, image_facts
from cvpods.data.white_level import level_of, level_of_values
from cvpods.utils.coco_values import clip_box, has_area, names_of
from cvpods.utils.errors import DataError

__all__ = ["KINDS", "MANY_BOXES", "Report", "Resizing", "check_coco"]

# From this share on, boxes below the finest stride are a finding; standard COCO training has 1 %.
_SMALL_SHARE = 0.05
# Key of a box that was turned around.
TURNED = "turned around"


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
    """Examine the content of a COCO file.

    Args:
        content: what json.load() gave: anything.
        num_classes: of the model; None is not compared.
        files: how many image files, drawn at random, are opened and decoded; None: all of them.
        box_format: one of BOX_FORMATS, in which the file writes its boxes.
        resizing: to find boxes that are too small for any location; None does not look for them.
        max_pixels: see read_image().

    Returns:
        The report, and the content with what is wrong mended or left out, see findings.py.
    """
    report = Report(name)
    records = read_records(content, report)
    _check_classes(records, num_classes, report)
    _check_files(records, Path(image_root), files, max_pixels, report)
    _convert_boxes(records, box_format, report)
    look_for_conventions(records, report)
    mended = _check_boxes(records, report)
    if resizing is not None:
        _check_small_boxes(records, resizing, report)
    _count(records, report)
    content = content if isinstance(content, Mapping) else {}
    return report, _written(content, records, mended)


# -- classes and images ----------------------------------------------------------------------------


def _check_classes(records: CocoRecords, num_classes: int | None, report: Report) -> None:
    categories = records.categories
    for name, count in Counter(c["name"] for c in categories.values()).items():
        if count > 1:
            report.add("duplicate category name", name)
    if not categories and not report.found["malformed record"]:
        report.add("malformed record", "'categories' is []")
    if num_classes is not None and len(categories) != num_classes:
        there = f"{report.name!r} has {len(categories)} classes"
        report.add("NUM_CLASSES", f"NUM_CLASSES {num_classes}, but {there}")


def _check_files(
    records: CocoRecords, root: Path, files: int | None, max_pixels: int | None, report: Report
) -> None:
    """Decode image files, several at once; images whose files cannot be used leave the records."""
    if files == 0:
        return
    for id_, name in look_for_notations(records.images, root, report).items():
        records.images[id_]["file_name"] = name
    chosen = list(records.images.values())
    if files is not None and files < len(chosen):
        sample = {id(image) for image in random.Random(0).sample(chosen, files)}
        chosen = [i for i in chosen if id(i) in sample or None in (i["height"], i["width"])]

    def look(record: Record) -> ImageFacts | tuple[str, str]:
        return _facts(root / record["file_name"], max_pixels)

    found: list[tuple[Record, ImageFacts]] = []
    with ThreadPoolExecutor() as pool:
        for record, facts in zip(chosen, pool.map(look, chosen), strict=True):
            if not isinstance(facts, ImageFacts):
                report.add(*facts)
                del records.images[record["id"]]
            elif _fits(record, facts, root, report):
                found.append((record, facts))
            else:
                del records.images[record["id"]]
    report.files_read = len(chosen)
    _check_values(found, report)


def _facts(path: Path, max_pixels: int | None) -> ImageFacts | tuple[str, str]:
    """Return the facts of a file, or the kind of finding and where."""
    try:
        if not path.exists():
            return "missing file", str(path)
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        return "missing file", f"{path}: {error}"
    try:
        return image_facts(path, max_pixels)
    except DataError as error:
        return "corrupt file", f"{path}: {error}"


def _fits(record: Record, facts: ImageFacts, root: Path, report: Report) -> bool:
    """Compare an image's size with its record, and fill in a size that is missing."""
    for side in ("height", "width"):
        if record[side] is None:
            record[side] = getattr(facts, side)
    if facts.orientation not in (0, 1):
        report.add("EXIF orientation", f"{record['file_name']}: {facts.orientation}")
    annotated = (record["height"], record["width"])
    if annotated == (facts.height, facts.width):
        return True
    said = f"{root / record['file_name']}: {facts.width} x {facts.height}, annotated "
    said += f"{record['width']} x {record['height']}"
    if annotated == facts.stored:
        said += " (the size before it is turned as EXIF says)"
    report.add("other size than annotated", said)
    return False


def _check_values(found: Sequence[tuple[Record, ImageFacts]], report: Report) -> None:
    """Look at the values of images of more than 8 bits."""
    deep = [(record, facts) for record, facts in found if facts.highest is not None]
    level = level_of_values((facts.highest, facts.is_float) for _, facts in deep)
    for record, facts in deep:
        name, most = record["file_name"], f"at most {facts.highest:g}"
        if facts.lowest < 0:
            report.add("values below 0", f"{name}: {facts.lowest:g}")
        own = level_of(facts.highest, facts.is_float)
        if own * 15 < level:  # 12 bits beside 16 differ by 16
            report.add("images of different depths", f"{name}: {most}; white is {level:g}")
        elif level < (65535 if not facts.is_float else 1):
            report.add("few of the bits used", f"{name}: {most}; white would be {own:g}")
    for record, facts in found:
        if facts.deep_colours:
            report.add("48-bit colours", record["file_name"])


# -- boxes -----------------------------------------------------------------------------------------


def _convert_boxes(records: CocoRecords, box_format: str, report: Report) -> None:
    if box_format == "xywh":
        return
    annotations = [*records.annotations, *records.without_box]
    for annotation in annotations:
        image = records.images.get(annotation["image_id"])
        if image is not None and image["width"] and image["height"]:
            width, height = image["width"], image["height"]
            annotation["bbox"] = convert_box(annotation["bbox"], box_format, width, height)
            annotation.pop("area", None)
    records.annotations = [a for a in annotations if has_area(a["bbox"])]
    records.without_box = [a for a in annotations if not has_area(a["bbox"])]


def _check_boxes(records: CocoRecords, report: Report) -> list[Record]:
    """Keep the boxes that training uses, clipped to their images.

    Returns:
        The boxes that --fix writes: each once, and those of negative size turned around.
    """
    boxes = [*records.annotations, *map(_turned_around, records.without_box)]
    copies = {id(copy) for _, copy in same_boxes(boxes)}
    used, mended = [], []
    for annotation in boxes:
        image = records.images.get(annotation["image_id"])
        if image is None or image.get(AMBIGUOUS):
            report.add("box of an image that is left out", f"annotation {annotation['id']}")
            continue
        box = _clipped(annotation, image, report) if has_area(annotation["bbox"]) else None
        if box is None:
            continue
        clipped = {**annotation, "bbox": box}
        if box != annotation["bbox"]:
            clipped.pop("area", None)  # the old one is that of the whole object
        if TURNED not in annotation:
            used.append(clipped)
        if id(annotation) not in copies:
            mended.append(clipped)
    records.annotations = used
    return mended


def _turned_around(annotation: Record) -> Record:
    """Return the annotation with a negative width or height counted from the other side."""
    x, y, width, height = annotation["bbox"]
    box = [min(x, x + width), min(y, y + height), abs(width), abs(height)]
    return {**annotation, "bbox": box, TURNED: True}


def _clipped(annotation: Record, image: Record, report: Report) -> list[float] | None:
    """Return the box clipped to the image where it reaches beyond; None if nothing is left."""
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
    """Count boxes with a side below the finest stride once their image is resized."""
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


# -- the whole -------------------------------------------------------------------------------------


def _count(records: CocoRecords, report: Report) -> None:
    """Count boxes by class and by image, crowds, and what has none."""
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
        _count_images(records, report)


def _count_images(records: CocoRecords, report: Report) -> None:
    counts = Counter(a["image_id"] for a in records.annotations)
    for id_, image in records.images.items():
        if not counts[id_]:
            report.add("image without boxes", image["file_name"])
        elif counts[id_] > MANY_BOXES:
            report.add(f"more than {MANY_BOXES:,} boxes", f"{image['file_name']}: {counts[id_]:,}")


def _written(
    content: Mapping[str, Any], records: CocoRecords, annotations: Sequence[Record]
) -> dict[str, Any]:
    """Return the content with the records that can be used."""
    roots = root_classes(records) if annotations else set()
    images = [
        image
        for image in records.images.values()
        if image["height"] and image["width"] and not image.get(AMBIGUOUS)
    ]
    kept = {image["id"] for image in images}
    categories = [c for id_, c in records.categories.items() if id_ not in roots]
    other = {k: v for k, v in content.items() if k not in ("images", "annotations", "categories")}
    written = {**other, "images": images, "categories": categories}
    if records.has_annotations:
        usable = [a for a in annotations if a["image_id"] in kept]
        for annotation in usable:
            annotation.pop(TURNED, None)
        written["annotations"] = _numbered(usable)
    return written


def _numbered(records: list[Record]) -> list[Record]:
    """Give annotations without an id, or with one that another has, a number that is free."""
    seen: set[Any] = set()
    free = max((r["id"] for r in records if isinstance(r["id"], int)), default=0) + 1
    texts = any(isinstance(r["id"], str) for r in records)
    for record in records:
        if record["id"] is None or record["id"] in seen:
            # A file's ids stay all numbers, or all texts.
            new = f"{record['id']}-{free}" if texts else free
            record["id"], free = new, free + 1
        seen.add(record["id"])
    return records
