"""One small data set as 60 tools and accidents would write it, and the outcome of each.

VARIANTS maps a name to (change, outcome). `change` gets the content of the COCO file and the folder
of its images, may change both, and may return other text for the file. The outcome is

- SAME: pods_check accepts it, training and evaluation run, and AP is that of the original;
- USED: the same, but the truth is another one (a box less, say), so that AP may differ;
- RENAMED: pods_check accepts it and training runs; weights of other class names are refused;
- REFUSED: pods_check, pods_train and pods_test refuse it in the same words; --fix mends it;
- HOPELESS: refused, and --fix has nothing to write.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SAME, USED, RENAMED = "same", "used", "renamed"
REFUSED, HOPELESS = "refused", "hopeless"
Change = Callable[[dict[str, Any], Path], str | None]
CLASSES = {3: "cat", 7: "dog"}


def make_data(folder: Path) -> dict[str, Any]:
    """Write 8 images of 64 x 48 with a red (cat) and a blue (dog) rectangle; return the content."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    folder.mkdir(parents=True)
    for i in range(1, 9):
        pixels = rng.integers(90, 110, (48, 64, 3), dtype=np.uint8)
        for category, colour in ((3, (230, 20, 20)), (7, (20, 20, 230))):
            if i == 8:
                continue  # an image without boxes
            width, height = (int(v) for v in rng.integers(14, 28, 2))
            x = int(rng.integers(0, 31 - width + 1)) + (32 if category == 7 else 0)
            y = int(rng.integers(0, 48 - height))
            pixels[y : y + height, x : x + width] = colour
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": category,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": int(i == 7 and category == 7),
                }
            )
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
    categories = [{"id": id_, "name": name} for id_, name in CLASSES.items()]
    return {"images": images, "categories": categories, "annotations": annotations}


# -- changes ---------------------------------------------------------------------------------------


def ids(new: Callable[[int, int], Any], *sections: str) -> Change:
    """Write the ids of sections (all by default) as new(position, count)."""

    def change(content: dict[str, Any], folder: Path) -> None:
        for section in sections or ("images", "categories", "annotations"):
            records = content[section]
            renamed = {r["id"]: new(i, len(records)) for i, r in enumerate(records)}
            for record in records:
                record["id"] = renamed[record["id"]]
            key = {"images": "image_id", "categories": "category_id"}.get(section)
            for annotation in content["annotations"] if key else ():
                annotation[key] = renamed[annotation[key]]

    return change


def each(section: str, change_one: Callable[[dict[str, Any]], None]) -> Change:
    """Change every record of a section."""

    def change(content: dict[str, Any], folder: Path) -> None:
        for record in content[section]:
            change_one(record)

    return change


def at(section: str, position: int, **values: Any) -> Change:
    """Set values of one record; DROP removes a key."""

    def change(content: dict[str, Any], folder: Path) -> None:
        record = content[section][position]
        record.update(values)
        for key in [key for key, value in values.items() if value is DROP]:
            del record[key]

    return change


DROP = object()


def box(value: Any) -> Change:
    return at("annotations", 2, bbox=value)


def files(change_file: Callable[[Path], None], *names: str) -> Change:
    """Change image files (all by default)."""

    def change(content: dict[str, Any], folder: Path) -> None:
        for name in names or [image["file_name"] for image in content["images"]]:
            change_file(folder / name)

    return change


def nest(separator: str) -> Change:
    """Move the images to folders below, as CVAT names them."""

    def change(content: dict[str, Any], folder: Path) -> None:
        (folder / "cam 1").mkdir()
        for image in content["images"]:
            (folder / image["file_name"]).rename(folder / "cam 1" / image["file_name"])
            image["file_name"] = f"cam 1{separator}{image['file_name']}"

    return change


def add(section: str, **record: Any) -> Change:
    def change(content: dict[str, Any], folder: Path) -> None:
        content[section].append(record)

    return change


def without(section: str) -> Change:
    def change(content: dict[str, Any], folder: Path) -> None:
        del content[section]

    return change


def text(write: Callable[[dict[str, Any]], str]) -> Change:
    return lambda content, folder: write(content)


def to_16_bit(path: Path) -> None:
    """Grey in 12 bits; the name stays."""
    grey = np.asarray(Image.open(path).convert("L"), dtype=np.uint16)
    Image.fromarray(grey * 16).save(path)


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def turn(path: Path) -> None:
    """Store the image on its side, with EXIF saying how to turn it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def corners(record: dict[str, Any]) -> None:
    x, y, w, h = record["bbox"]
    record["bbox"] = [x, y, x + w, y + h]


def fractions(record: dict[str, Any]) -> None:
    x, y, w, h = record["bbox"]
    record["bbox"] = [x / 64, y / 48, w / 64, h / 48]


def set_all(section: str, key: str, value: Any) -> Change:
    return each(section, lambda record: record.update({key: value}))


def as_text(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for key in keys:
            value = record[key]
            record[key] = [str(v) for v in value] if isinstance(value, list) else str(value)

    return change


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def percent(record: dict[str, Any]) -> None:
    record["file_name"] = record["file_name"].replace(".", "%2E")


def roboflow(content: dict[str, Any], folder: Path) -> None:
    """Add a root class with id 0 without boxes, so that the model lacks a class."""
    for category in content["categories"]:
        category["supercategory"] = "pets"
    content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})


VARIANTS: dict[str, tuple[Change, str]] = {
    "as it is": (lambda content, folder: None, SAME),
    # -- ids ---------------------------------------------------------------------------------------
    "ids from 0": (ids(lambda i, n: i), SAME),
    "annotation ids from 0": (ids(lambda i, n: i, "annotations"), SAME),
    "negative ids": (ids(lambda i, n: i - n), SAME),
    "ids above 2^53": (ids(lambda i, n: 2**53 + i), SAME),
    "ids of 17 digits": (ids(lambda i, n: 20_261_127_120_000_000 + i), SAME),
    "ids above 2^63": (ids(lambda i, n: 2**63 + i), SAME),
    "ids as texts": (ids(lambda i, n: f"c{i:02d}"), SAME),
    "ids as digits in texts": (ids(lambda i, n: str(i + 1)), SAME),
    "ids as UUIDs": (ids(lambda i, n: str(uuid.UUID(int=i + 1))), SAME),
    "ids as floats": (ids(lambda i, n: 908400416500.0 + i), SAME),
    "ids with gaps": (ids(lambda i, n: (i + 1) ** 3), SAME),
    "image ids reversed": (ids(lambda i, n: n - i, "images", "annotations"), SAME),
    "annotations without ids": (each("annotations", lambda r: r.pop("id")), SAME),
    "annotation ids null": (set_all("annotations", "id", None), SAME),
    "annotation ids repeated": (set_all("annotations", "id", 1), SAME),
    "an image id repeated": (at("images", 1, id=1), REFUSED),
    "a category id repeated": (at("categories", 1, id=3), HOPELESS),
    "an unknown image": (at("annotations", 0, image_id=99), REFUSED),
    "an unknown category": (at("annotations", 0, category_id=99), REFUSED),
    "a category id as text": (at("annotations", 0, category_id="3"), REFUSED),
    "an id that is a list": (at("images", 0, id=[1]), REFUSED),
    "an id that is true": (at("annotations", 0, id=True), REFUSED),
    # -- values ------------------------------------------------------------------------------------
    "area null": (set_all("annotations", "area", None), SAME),
    "area 0": (set_all("annotations", "area", 0), SAME),
    "area as text": (each("annotations", as_text("area")), SAME),
    "no area": (each("annotations", lambda r: r.pop("area")), SAME),
    "iscrowd as text": (each("annotations", as_text("iscrowd")), SAME),
    "iscrowd true": (each("annotations", lambda r: r.update(iscrowd=bool(r["iscrowd"]))), SAME),
    "iscrowd null": (set_all("annotations", "iscrowd", None), USED),
    "iscrowd 2": (at("annotations", 0, iscrowd=2), REFUSED),
    "ignore 1": (at("annotations", 0, ignore=1), SAME),
    "ignore no": (at("annotations", 0, ignore="no"), REFUSED),
    "boxes as texts": (each("annotations", as_text("bbox")), SAME),
    "a box of five": (box([1, 2, 20, 20, 0.9]), REFUSED),
    "a box as dict": (box({"x": 1, "y": 2, "width": 20, "height": 20}), REFUSED),
    "a box in words": (box("1 2 20 20"), REFUSED),
    "an empty box list": (box([]), REFUSED),
    "a box null": (box(None), REFUSED),
    "a box without size": (box([5, 5, 0, 9]), USED),
    "a box turned around": (box([30, 40, -20, -20]), USED),
    "a box of NaN": (box([math.nan, 1, 5, 5]), USED),
    "a box outside": (box([200, 1, 5, 5]), USED),
    "a box beyond the edge": (box([40, 30, 40, 40]), USED),
    "corners": (each("annotations", corners), USED),
    "fractions": (each("annotations", fractions), USED),
    "sizes as texts": (each("images", as_text("width", "height")), SAME),
    "sizes as floats": (each("images", lambda r: r.update(width=64.0, height=48.0)), SAME),
    "no sizes": (each("images", lambda r: r.pop("width")), REFUSED),
    "a wrong size": (at("images", 0, width=640), REFUSED),
    "a name that is a number": (at("categories", 0, name=5), HOPELESS),
    "two classes of one name": (at("categories", 1, name="cat"), RENAMED),
    "a root class": (roboflow, HOPELESS),  # NUM_CLASSES does not fit; --fix makes it fit again
    "all crowds": (set_all("annotations", "iscrowd", 1), HOPELESS),
    "no annotations": (without("annotations"), HOPELESS),
    "no images": (without("images"), HOPELESS),
    # -- files -------------------------------------------------------------------------------------
    "a byte order mark": (text(lambda content: "\ufeff" + json.dumps(content)), SAME),
    "cut off": (text(lambda content: json.dumps(content)[:-30]), HOPELESS),
    "nested folders": (nest("/"), SAME),
    "backslashes": (nest("\\"), SAME),
    "percent signs": (each("images", percent), SAME),
    "a missing file": (files(Path.unlink, "2.png"), REFUSED),
    "a damaged file": (
        files(cut_short, "2.png"),
        REFUSED,
    ),
    "a named pipe": (files(to_pipe, "2.png"), REFUSED),
    "a name too long": (at("images", 1, file_name="x" * 5000), REFUSED),
    "one file twice": (add("images", id=99, file_name="1.png", width=64, height=48), USED),
    "EXIF orientation": (files(turn), SAME),
    "12 bits": (files(to_16_bit), USED),
}
