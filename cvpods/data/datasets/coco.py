"""Data sets in COCO's json format."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.data.datasets import paths
from cvpods.data.datasets.base_dataset import BaseDataset, resolve_images
from cvpods.data.registry import DATASETS
from cvpods.structures import BoxMode
from cvpods.utils.errors import DataError


def read_json(path: Path) -> Any:
    """A json file's content.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no json
        raise DataError(f"Annotation file {path} cannot be read as json: {error}") from error


def load_coco_json(path: Path) -> dict[str, Any]:
    """Read and check the outline of a COCO file: lists of images and categories with their keys.

    Raises:
        DataError: not json, or a key is missing; names the file and the key.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"Annotation file {path} must hold a json object, not a list or a value.")
    needed = {
        "images": ("id", "file_name", "height", "width"),
        "categories": ("id", "name"),
        "annotations": ("id", "image_id", "category_id", "bbox"),
    }
    for section, keys in needed.items():
        if section == "annotations" and section not in content:
            continue  # test-dev: images only
        records = content.get(section)
        if not isinstance(records, list):
            raise DataError(f"Annotation file {path} has no list '{section}'.")
        for record in records:
            missing = [k for k in keys if not isinstance(record, dict) or k not in record]
            if missing:
                raise DataError(f"{path}: {section} entry {record!r:.120} lacks {missing}.")
            wrong = [k for k in keys if k in _TYPES and not _TYPES[k](record[k])]
            if wrong:
                raise DataError(
                    f"{path}: {section} entry {record!r:.120} has an impossible {wrong[0]}. "
                    "pods_check lists all such entries, and writes a file without them."
                )
        if len({type(record["id"]) for record in records}) > 1:
            raise DataError(f"{path}: some {section} ids are numbers, some are texts.")
        twice = [i for i, n in Counter(r["id"] for r in records).items() if n > 1]
        known_flaw = section == "annotations" and "minival" in path.name  # COCO 2014's
        if twice and section != "categories" and not known_flaw:
            raise DataError(f"{path}: {section} ids must be unique; {twice[:5]} are not.")
    return content


@DATASETS.register()
class COCODataset(BaseDataset):
    """A data set of PATH_ROUTES in COCO's format.

    meta: thing_classes (names by ascending category id), thing_dataset_id_to_contiguous_id,
    image_root, json_file, evaluator_type.
    """

    def _get_metadata(self) -> dict[str, Any]:
        image_root, json_name = resolve_images(self.name)
        json_file = paths.resolve(json_name, f"The annotation file of {self.name!r}")
        self._content = load_coco_json(json_file)
        categories = sorted(self._content["categories"], key=lambda c: c["id"])
        ids = [c["id"] for c in categories]
        if len(set(ids)) != len(ids) or not ids:
            raise DataError(f"{json_file}: category ids must be unique, and some; got {ids}.")
        return {
            "thing_classes": [c["name"] for c in categories],
            "thing_dataset_id_to_contiguous_id": {id_: i for i, id_ in enumerate(ids)},
            "image_root": str(image_root),
            "json_file": str(json_file),
            "evaluator_type": paths.entry(self.name)[2],
        }

    def _load_annotations(self) -> list[dict[str, Any]]:
        content = self.__dict__.pop("_content")
        by_image = self._annotations_by_image(content)
        root = Path(self.meta["image_root"])
        images = sorted(content["images"], key=lambda image: image["id"])
        unknown = set(by_image) - {image["id"] for image in images}
        if unknown:
            raise DataError(
                f"{self.meta['json_file']}: annotations name image ids that do not exist: "
                f"{sorted(unknown, key=str)[:5]}."
            )
        return [
            {
                "file_name": str(root / image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": by_image.get(image["id"], []),
            }
            for image in images
        ]

    def _annotations_by_image(self, content: dict[str, Any]) -> dict[int, list[dict]]:
        to_contiguous = self.meta["thing_dataset_id_to_contiguous_id"]
        by_image: dict[int, list[dict]] = defaultdict(list)
        dropped = 0
        for annotation in content.get("annotations", []):
            category = annotation["category_id"]
            if category not in to_contiguous:
                raise DataError(
                    f"{self.meta['json_file']}: annotation {annotation['id']} has category_id "
                    f"{category}, which is not in 'categories' {sorted(to_contiguous)}."
                )
            if not _has_area(annotation["bbox"]):
                dropped += 1
                continue
            by_image[annotation["image_id"]].append(
                {
                    "iscrowd": annotation.get("iscrowd", 0),
                    "bbox": [float(v) for v in annotation["bbox"]],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": to_contiguous[category],
                }
            )
        if dropped:
            logger.warning(
                f"{self.meta['json_file']}: left out {dropped} boxes without positive, finite size."
            )
        return by_image

    def coco_ground_truth(self) -> dict[str, Any] | None:
        content = load_coco_json(Path(self.meta["json_file"]))
        if "annotations" not in content:
            return None
        kept = [a for a in content["annotations"] if _has_area(a["bbox"])]
        return {**content, "annotations": kept}


def is_id(value: Any) -> bool:
    """Whether a value can be an id."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def is_size(value: Any) -> bool:
    """Whether a value can be an image's height or width."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**6


# What the values of an entry must be; boxes are looked at one by one, and left out where wrong.
_TYPES = {
    "id": is_id,
    "image_id": is_id,
    "category_id": is_id,
    "name": lambda value: isinstance(value, str),
    "file_name": lambda value: isinstance(value, str) and "\0" not in value,
    "height": is_size,
    "width": is_size,
}


def box_numbers(bbox: Any) -> tuple[float, ...]:
    """x, y, width, height as floats.

    Raises:
        ValueError: it is no list of four numbers.
    """
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4:
        raise ValueError("no list of four")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in bbox):
        raise ValueError("no numbers")
    try:
        return tuple(float(value) for value in bbox)
    except OverflowError as error:
        raise ValueError("too large") from error


def _has_area(bbox: Any) -> bool:
    """x, y, width, height: four finite numbers, size > 0."""
    try:
        x, y, width, height = box_numbers(bbox)
    except ValueError:
        return False
    limit = 1e7  # also refuses inf and nan
    return abs(x) < limit and abs(y) < limit and 0 < width < limit and 0 < height < limit
