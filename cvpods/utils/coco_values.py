"""Readers of values in COCO's json format, in the forms that common tools write.

Each reader returns the value in its plain type, or raises ValueError with the reason. The data
sets, the data check and the evaluation use these readers, so that they agree on every file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

# Coordinates of this size or more are treated as infinite; images are never that large.
LARGEST_COORDINATE = 1e7
LARGEST_AREA = 1e10
_FLAGS = {None: False, 0: False, 1: True, "0": False, "1": True, "false": False, "true": True}
_WHOLE = re.compile(r"[+-]?\d{1,4000}(\.0*)?")


def read_number(value: Any) -> float:
    """Return a number, or a number that is written as text, as a float.

    Raises:
        ValueError: the value is neither.
    """
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        if plain or (isinstance(value, str) and "_" not in value):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{value!r:.60} is not a number")


def read_id(value: Any) -> int | str:
    """Return an id: a whole number of any size, or a text. 908400416500.0 becomes an int.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{value!r:.60} is not an id (a whole number or a text)")


def read_side(value: Any) -> int:
    """Return an image's height or width in pixels: a whole number above 0, as number or text.

    Raises:
        ValueError: the value is neither, or is 10^6 or more.
    """
    number = read_number(value)
    if not (number.is_integer() and 0 < number < 10**6):
        raise ValueError(f"{value!r:.60} is not a whole number of pixels above 0")
    return int(number)


def read_flag(value: Any) -> bool:
    """Return "iscrowd" or "ignore" as a bool: 0, 1, true, false, or absent (null).

    Raises:
        ValueError: the value is anything else.
    """
    try:
        return _FLAGS[value.lower() if isinstance(value, str) else value]
    except (KeyError, TypeError):
        raise ValueError(f"{value!r:.60} is not 0 or 1") from None


def read_box(bbox: Any) -> list[float]:
    """Return x, y, width, height as floats. They may be of any size, infinite or NaN.

    Raises:
        ValueError: the value is not a list of four numbers, written as numbers or as texts.
    """
    if not isinstance(bbox, (list, tuple)):
        raise ValueError(f"it must be a list x, y, width, height; got {bbox!r:.60}")
    if len(bbox) != 4:
        raise ValueError(f"it must have 4 numbers; got {len(bbox)}: {bbox!r:.60}")
    return [read_number(value) for value in bbox]


def read_area(value: Any, box: list[float]) -> float:
    """Return "area" in square pixels, or the area of the box if the value is not usable.

    A usable area is a number above 0 and at most 1e10. COCO's code ignores larger objects, even
    among objects of all sizes.
    """
    try:
        area = read_number(value)
    except ValueError:
        area = 0.0
    return area if 0 < area <= LARGEST_AREA else min(abs(box[2] * box[3]), LARGEST_AREA)


def has_area(box: list[float]) -> bool:
    """Return True if x, y, width, height are finite and the size is positive."""
    x, y, width, height = box
    limit = LARGEST_COORDINATE  # the comparisons also refuse infinity and NaN
    return abs(x) < limit and abs(y) < limit and 0 < width < limit and 0 < height < limit


def ids_by_number(known: Iterable[int | str]) -> dict[int, int | str]:
    """Return {number: id} of the ids that are numbers, or texts of numbers such as "007"."""
    return {number: id_ for id_ in known if (number := whole_number(id_)) is not None}


def category_order(ids: Iterable[int | str]) -> list[int | str]:
    """Return category ids in ascending order, which is the order of the model's classes.

    If all ids are whole numbers or texts of them, they are ordered as numbers ("2" before "10").
    """
    ids = list(ids)
    if all(whole_number(id_) is not None for id_ in ids):
        return sorted(ids, key=lambda id_: (whole_number(id_), str(id_)))
    return sorted(ids, key=lambda id_: (isinstance(id_, str), id_))


def names_of(records: Mapping[Any, Mapping[str, Any]]) -> dict[Any, str]:
    """Return {category id: name}. The id is added to a name that occurs more than once."""
    counts = Counter(record["name"] for record in records.values())
    return {
        id_: record["name"] if counts[record["name"]] == 1 else f"{record['name']} (id {id_})"
        for id_, record in records.items()
    }


def clip_box(box: list[float], width: float, height: float) -> list[float] | None:
    """Return x, y, width, height clipped to an image; None if the box lies outside."""
    x1, y1 = max(box[0], 0.0), max(box[1], 0.0)
    x2, y2 = min(box[0] + box[2], width), min(box[1] + box[3], height)
    return [x1, y1, x2 - x1, y2 - y1] if x1 < x2 and y1 < y2 else None


def check_text(value: Any) -> str:
    """Return a text that can be written to files and used in paths.

    Raises:
        ValueError: the value is not a text, or it holds NUL or half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.60} is not a text")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{value!r:.60} holds characters that no file can have")
    return value


def whole_number(id_: int | str) -> int | None:
    """Return the number of an id, also of a text ("7", "007", "7.0"); None for any other id."""
    if isinstance(id_, int):
        return id_
    return int(id_.partition(".")[0]) if _WHOLE.fullmatch(id_) else None


def polygon_box(segmentation: Any) -> list[float] | None:
    """Return the box (x, y, width, height) around polygons [[x, y, x, y, ...], ...].

    It is None for anything but polygons around an area.
    """
    if not isinstance(segmentation, list) or not segmentation:
        return None
    try:
        numbers = [[read_number(value) for value in polygon] for polygon in segmentation]
    except (TypeError, ValueError):
        return None
    xs, ys = ([v for polygon in numbers for v in polygon[i::2]] for i in (0, 1))
    if not ys or len(xs) != len(ys):
        return None
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return box if has_area(box) else None
