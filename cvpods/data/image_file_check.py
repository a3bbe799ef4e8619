"""Checks of the image files of a COCO data set: presence, size, orientation and values."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cvpods.data.coco_records import CocoRecords, Record
from cvpods.data.conventions import existing_file_names
from cvpods.data.findings import Report
from cvpods.data.image_facts import DeepValues, ImageFacts, image_facts
from cvpods.data.white_level import level_of, level_of_values
from cvpods.utils.errors import DataError


def check_image_files(
    records: CocoRecords,
    root: Path,
    sample_size: int | None,
    max_pixels: int | None,
    report: Report,
) -> None:
    """Decode image files, several at once, and remove images with unusable files from `records`.

    Missing sizes are filled in, and file names are replaced by the notation that exists.

    Args:
        sample_size: number of files, drawn at random, to decode; None decodes all. Images without a
            size are always decoded, unless the number is 0.
        max_pixels: see read_image().
    """
    if sample_size == 0:
        return
    for id_, name in existing_file_names(records.images, root, report).items():
        records.images[id_]["file_name"] = name
    chosen = list(records.images.values())
    if sample_size is not None and sample_size < len(chosen):
        sample = {id(image) for image in random.Random(0).sample(chosen, sample_size)}
        chosen = [i for i in chosen if id(i) in sample or None in (i["height"], i["width"])]

    def read_facts(record: Record) -> ImageFacts | tuple[str, str]:
        return _facts_or_finding(root / record["file_name"], max_pixels)

    usable: list[tuple[Record, ImageFacts]] = []
    with ThreadPoolExecutor() as pool:
        for record, facts in zip(chosen, pool.map(read_facts, chosen), strict=True):
            if not isinstance(facts, ImageFacts):
                report.add(*facts)
                del records.images[record["id"]]
            elif _size_matches(record, facts, root, report):
                usable.append((record, facts))
            else:
                del records.images[record["id"]]
    report.files_read = len(chosen)
    _check_values(usable, report)


def _facts_or_finding(path: Path, max_pixels: int | None) -> ImageFacts | tuple[str, str]:
    """Return the facts about a file, or the kind of finding and its location."""
    try:
        if not path.exists():
            return "missing file", str(path)
    except (OSError, ValueError) as error:  # a name that is too long or contains NUL
        return "missing file", f"{path}: {error}"
    try:
        return image_facts(path, max_pixels)
    except DataError as error:
        return "corrupt file", f"{path}: {error}"


def _size_matches(record: Record, facts: ImageFacts, root: Path, report: Report) -> bool:
    """Compare an image's size with its record, after filling in a missing side."""
    for side in ("height", "width"):
        if record[side] is None:
            record[side] = getattr(facts, side)
    if facts.orientation not in (0, 1):
        report.add("EXIF orientation", f"{record['file_name']}: {facts.orientation}")
    annotated = (record["height"], record["width"])
    if annotated == (facts.height, facts.width):
        return True
    mismatch = f"{root / record['file_name']}: {facts.width} x {facts.height}, annotated "
    mismatch += f"{record['width']} x {record['height']}"
    if annotated == facts.stored:
        mismatch += " (the size before the EXIF orientation is applied)"
    report.add("other size than annotated", mismatch)
    return False


def _check_values(images: Sequence[tuple[Record, ImageFacts]], report: Report) -> None:
    """Check the pixel values of images with more than 8 bits a channel."""
    deep = [(record, facts.deep) for record, facts in images if facts.deep is not None]
    level = level_of_values((values.highest, values.is_float) for _, values in deep)
    for record, values in deep:
        _check_depth(record["file_name"], values, level, report)
    for record, facts in images:
        if facts.deep_colours:
            report.add("48-bit colours", record["file_name"])


def _check_depth(name: str, values: DeepValues, level: float | None, report: Report) -> None:
    """Compare the values of one deep image with the white level of the data set."""
    if values.lowest < 0:
        report.add("values below 0", f"{name}: {values.lowest:g}")
    own = level_of(values.highest, values.is_float)
    level = own if level is None else level
    if own * 15 < level:  # 12 bits beside 16 differ by a factor of 16
        report.add(
            "images of different depths", f"{name}: at most {values.highest:g}; white is {level:g}"
        )
    elif level < (1 if values.is_float else 65535):
        report.add(
            "few of the bits used", f"{name}: at most {values.highest:g}; white would be {own:g}"
        )
