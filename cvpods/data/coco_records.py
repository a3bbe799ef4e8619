"""Reader of COCO files: their records in plain types, and a report of all their errors.

Training, evaluation and pods_check use this one reader, so they see the same images, classes and
boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cvpods.data.findings import Report
from cvpods.utils import coco_values as values

Record = dict[str, Any]
T = TypeVar("T")
_FLAGS = ("iscrowd", "ignore")
# Key of a record whose id stands for several things.
AMBIGUOUS = "ambiguous id"


@dataclass
class CocoRecords:
    """Images and categories by id, in the order of the file, and annotations that have a box.

    Ids are ints or texts, sides ints, boxes four floats, flags 0 or 1; other keys are unchanged.

    Attributes:
        annotations: annotations whose box has a positive size.
        without_area: annotations whose box is finite but not of positive size.
        has_annotations: False for a file of test images, which has no list "annotations".
    """

    images: dict[int | str, Record] = field(default_factory=dict)
    categories: dict[int | str, Record] = field(default_factory=dict)
    annotations: list[Record] = field(default_factory=list)
    without_area: list[Record] = field(default_factory=list)
    has_annotations: bool = False


def read_records(content: Any, report: Report) -> CocoRecords:
    """Read the content of a COCO file and add all its errors to `report`.

    If an error has only one possible repair, the records contain the repaired value. The error is
    reported all the same, and training refuses the file.

    Args:
        content: the return value of json.load(), of any type.
    """
    if not isinstance(content, Mapping):
        report.add("malformed record", "the file must hold a json object, not a list or a value")
        return CocoRecords()
    records = CocoRecords(has_annotations="annotations" in content)
    records.categories = _unique(content, "categories", _category, report, "duplicate category id")
    records.images = _unique(content, "images", _image, report, "duplicate image id")
    if records.has_annotations:
        _read_annotations(content, records, report)
    return records


# -- sections --------------------------------------------------------------------------------------


def _read_section(
    content: Mapping[str, Any],
    section: str,
    read: Callable[[Mapping[str, Any], Report], T],
    report: Report,
) -> list[T]:
    """Return the records of a section; report those for which `read` raises ValueError."""
    listed = content.get(section)
    if not isinstance(listed, list):
        report.add("malformed record", f"the file has no list {section!r}")
        return []
    records = []
    for position, record in enumerate(listed):
        try:
            if not isinstance(record, Mapping):
                raise ValueError(f"{record!r:.60} is not an object")
            records.append(read(record, report))
        except ValueError as error:
            report.add("malformed record", f"{section}[{position}]: {error}")
    return records


def _unique(
    content: Mapping[str, Any],
    section: str,
    read: Callable[[Mapping[str, Any], Report], Record],
    report: Report,
    duplicate: str,
) -> dict[int | str, Record]:
    """Return {id: record} of a section, with the first record of each id.

    If records with one id name different things, the first record gets AMBIGUOUS: True, because it
    is not known which of them an annotation refers to.
    """
    records = _read_section(content, section, read, report)
    counts = Counter(record["id"] for record in records)
    key = "name" if section == "categories" else "file_name"
    unique: dict[int | str, Record] = {}
    for record in records:
        first = unique.setdefault(record["id"], record)
        if first is record:
            continue
        report.add(duplicate, f"id {record['id']!r} occurs {counts[record['id']]} times")
        if first[key] != record[key]:
            first[AMBIGUOUS] = True
    return unique


def _require(record: Mapping[str, Any], *keys: str) -> None:
    missing = [key for key in keys if record.get(key) is None]
    if missing:
        raise ValueError(f"{record!r:.120} lacks {missing}")


def _read_id(record: Mapping[str, Any], key: str, report: Report) -> int | str:
    value = record[key]
    if isinstance(value, float) and value.is_integer():
        report.add("id written as float", f"{key} {value!r}")
    try:
        return values.read_id(value)
    except ValueError as error:
        raise ValueError(f"{key} {error}") from None


def _read_text(record: Mapping[str, Any], key: str) -> str:
    try:
        return values.check_text(record[key])
    except ValueError as error:
        raise ValueError(f"{key} {error}") from None


def _category(record: Mapping[str, Any], report: Report) -> Record:
    _require(record, "id", "name")
    name = _read_text(record, "name")
    return {**record, "id": _read_id(record, "id", report), "name": name}


def _image(record: Mapping[str, Any], report: Report) -> Record:
    """Return the record of an image; a missing or impossible side becomes None."""
    _require(record, "id", "file_name")
    file_name = _read_text(record, "file_name")
    image = {**record, "id": _read_id(record, "id", report), "file_name": file_name}
    for key in ("height", "width"):
        image[key] = _side(record, key, file_name, report)
    return image


def _side(record: Mapping[str, Any], key: str, file_name: str, report: Report) -> int | None:
    value = record.get(key)
    try:
        side = values.read_side(value)
    except ValueError:
        problem = "has no" if value is None else f"has the impossible {value!r:.60} as"
        report.add("missing size", f"images: {file_name!r:.100} {problem} {key}")
        return None
    if isinstance(value, str):
        report.add("number written as text", f"{key} {value!r} of {file_name}")
    return side


# -- annotations -----------------------------------------------------------------------------------


def _read_annotations(content: Mapping[str, Any], records: CocoRecords, report: Report) -> None:
    reader = _AnnotationReader(records, content, report)
    for annotation, usable in _read_section(content, "annotations", reader.read, report):
        if usable and values.has_area(annotation["bbox"]):
            records.annotations.append(annotation)
        elif usable:
            records.without_area.append(annotation)
    counts = Counter(a["id"] for a in records.annotations if a["id"] is not None)
    for id_, count in counts.items():
        for _ in range(count - 1):
            report.add("duplicate annotation id", f"id {id_!r}")


class _AnnotationReader:
    """Reader of single annotations, given the images and categories of the file."""

    def __init__(self, records: CocoRecords, content: Mapping[str, Any], report: Report) -> None:
        self.images, self.categories = records.images, records.categories
        # Ids of images that are left out; these images have been reported themselves.
        listed = content.get("images")
        listed = listed if isinstance(listed, list) else []
        named = [i.get("id") for i in listed if isinstance(i, Mapping)]
        self.dropped = {i for i in named if isinstance(i, (int, float, str))} - set(self.images)
        self.report = report
        # {section: {number: id}}, created when the first unknown id occurs.
        self.numbers: dict[str, dict[int, int | str]] = {}
        self.category_list = f" {values.category_order(self.categories)!r:.200}"

    def read(self, record: Mapping[str, Any], report: Report) -> tuple[Record, bool]:
        """Return the annotation, and whether it can be used."""
        _require(record, "image_id", "category_id")
        annotation = {"bbox": None, **record}
        annotation["id"] = self._own_id(record)
        where = f"annotation {annotation['id']}"
        usable = self._resolve_id(annotation, "image_id", "images", self.images, where)
        usable &= self._resolve_id(annotation, "category_id", "categories", self.categories, where)
        usable &= self._box(annotation, where)
        for key in _FLAGS:
            self._flag(annotation, key, where)
        self._area(annotation, where)
        return annotation, usable

    def _own_id(self, record: Mapping[str, Any]) -> int | str | None:
        if record.get("id") is None:
            self.report.add("missing annotation id", f"annotation of image {record['image_id']!r}")
            return None
        return _read_id(record, "id", self.report)

    def _resolve_id(
        self,
        annotation: Record,
        key: str,
        section: str,
        known: Mapping[int | str, Record],
        where: str,
    ) -> bool:
        """Read the id of a record in another section; return False if the record is missing."""
        id_ = annotation[key] = _read_id(annotation, key, self.report)
        if id_ in known:
            return True
        if key == "image_id" and id_ in self.dropped:
            return False
        if (equal := self._equal_id(id_, section, known)) is not None:
            kinds = {True: "a text", False: "a number"}
            own, other = kinds[isinstance(id_, str)], kinds[isinstance(equal, str)]
            self.report.add(
                "id of another type",
                f"{key} {id_!r} of {where} is {own}; {section!r} has {equal!r}, {other}",
            )
            annotation[key] = equal
            return True
        listed = self.category_list if section == "categories" else ""
        text = " (a text)" if isinstance(id_, str) else ""
        kind = "unknown image id" if key == "image_id" else "unknown category id"
        self.report.add(kind, f"{key} {id_!r}{text} of {where} is not in {section!r}{listed}")
        return False

    def _equal_id(
        self, id_: int | str, section: str, known: Mapping[int | str, Record]
    ) -> int | str | None:
        """Return the id in `known` that is the same number in the other type, or None."""
        if section not in self.numbers:
            self.numbers[section] = values.ids_by_number(known)
        number = values.whole_number(id_)
        return None if number is None else self.numbers[section].get(number)

    def _box(self, annotation: Record, where: str) -> bool:
        """Read the box; return False if it cannot be used."""
        raw = annotation["bbox"]
        if raw is None or raw == []:
            return self._box_from_polygons(annotation, where)
        try:
            box = annotation["bbox"] = values.read_box(raw)
        except ValueError as error:
            self.report.add("malformed box", f"{where}: {error}")
            annotation["bbox"] = [0.0] * 4
            return False
        if any(isinstance(value, str) for value in raw):
            self.report.add("number written as text", f"{where}: bbox {raw!r:.80}")
        if not all(abs(value) < values.LARGEST_COORDINATE for value in box):
            self.report.add("NaN or infinite box", f"{where}: {raw!r:.60}")
            return False
        if not values.has_area(box):
            self.report.add("zero or negative box", f"{where}: {raw!r:.60}")
        return True

    def _box_from_polygons(self, annotation: Record, where: str) -> bool:
        """Report an annotation without a box; give it the box of its polygons, if it has any."""
        box = values.polygon_box(annotation.get("segmentation"))
        polygons = "but polygons" if box else "and no polygons"
        self.report.add("annotation without a box", f"annotations: {where} has no bbox, {polygons}")
        annotation["bbox"] = box or [0.0] * 4
        return box is not None

    def _flag(self, annotation: Record, key: str, where: str) -> None:
        """Read a flag; remove null and values other than 0 and 1."""
        value = annotation.pop(key, None)
        if value is None:
            return
        try:
            annotation[key] = int(values.read_flag(value))
        except ValueError as error:
            self.report.add("malformed flag", f"{where}: {key} {error}")
        else:
            if isinstance(value, str):
                self.report.add("number written as text", f"{where}: {key} {value!r}")

    def _area(self, annotation: Record, where: str) -> None:
        if "area" not in annotation:
            return
        value = annotation["area"]
        area = values.read_area(value, annotation["bbox"])
        if value != area:
            kind = "area from the box"
            if isinstance(value, str) and values.read_area(value, [0.0] * 4):
                kind = "number written as text"
            self.report.add(kind, f"{where}: area {value!r:.60}")
            annotation["area"] = area
