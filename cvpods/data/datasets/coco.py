"""Data sets in COCO's json format."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.data.coco_records import CocoRecords, Record, read_records
from cvpods.data.datasets import paths
from cvpods.data.datasets.base_dataset import BaseDataset, resolve_images
from cvpods.data.findings import Report
from cvpods.data.registry import DATASETS
from cvpods.structures import BoxMode
from cvpods.utils.coco_values import category_order, clip_box
from cvpods.utils.errors import DataError
from cvpods.utils.files import describe_encoding, existing_name, read_text


def read_json(path: Path) -> Any:
    """Return the content of a json file, without a byte order mark at its start.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not json
        reason = describe_encoding(path) or error
        raise DataError(f"Annotation file {path} cannot be read as json: {reason}") from error


def load_coco(path: Path) -> tuple[dict[str, Any], CocoRecords, Report]:
    """Read a COCO file for training or evaluation.

    Returns:
        The content of the file, its records in plain types, and the report of its findings.

    Raises:
        DataError: the file is not json, or it has errors; they are described as by pods_check.
    """
    content = read_json(path)
    report = Report(str(path))
    records = read_records(content, report)
    if not records.categories and not report.count("error"):
        report.add("malformed record", "'categories' is []")
    if report.count("error"):
        raise DataError(f"{path}: {report.errors()} pods_check lists all of them.")
    return content, records, report


@DATASETS.register()
class COCODataset(BaseDataset):
    """A data set of PATH_ROUTES in COCO's format.

    Attributes:
        meta: thing_classes (names by ascending category id), thing_dataset_id_to_contiguous_id,
            image_root, json_file, evaluator_type.
    """

    def _get_metadata(self) -> dict[str, Any]:
        image_root, json_name = resolve_images(self.name)
        json_file = paths.resolve(json_name, f"The annotation file of {self.name!r}")
        _, self._records, report = load_coco(json_file)
        for kind in ("NaN or infinite box", "zero or negative box"):
            if where := report.found.get(kind):
                logger.warning(f"{json_file}: left out {len(where)} boxes: {kind}: {where[0]}")
        ids = category_order(self._records.categories)
        return {
            "thing_classes": [self._records.categories[id_]["name"] for id_ in ids],
            "thing_dataset_id_to_contiguous_id": {id_: i for i, id_ in enumerate(ids)},
            "image_root": str(image_root),
            "json_file": str(json_file),
            "evaluator_type": paths.entry(self.name)[2],
        }

    def _load_annotations(self) -> list[dict[str, Any]]:
        records: CocoRecords = self.__dict__.pop("_records")
        to_contiguous = self.meta["thing_dataset_id_to_contiguous_id"]
        by_image: dict[int | str, list[dict[str, Any]]] = defaultdict(list)
        for annotation in records.annotations:
            if self.is_train and _lies_outside(annotation, records):
                continue  # clipping would leave no area
            by_image[annotation["image_id"]].append(
                {
                    "iscrowd": annotation.get("iscrowd", 0),
                    "bbox": annotation["bbox"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": to_contiguous[annotation["category_id"]],
                }
            )
        root = Path(self.meta["image_root"])
        return [
            {
                "file_name": str(root / existing_name(root, image["file_name"])),
                "height": image["height"],
                "width": image["width"],
                "image_id": id_,
                "annotations": by_image.get(id_, []),
            }
            for id_, image in _sorted_by_id(records.images)
        ]

    def coco_ground_truth(self) -> dict[str, Any] | None:
        """Return the content of the file with its records in plain types, see CocoRecords.

        Return None for a file without annotations.
        """
        content, records, _ = load_coco(Path(self.meta["json_file"]))
        if not records.has_annotations:
            return None
        return {
            **content,
            "images": list(records.images.values()),
            "categories": list(records.categories.values()),
            "annotations": records.annotations,
        }


def _lies_outside(annotation: Record, records: CocoRecords) -> bool:
    image = records.images[annotation["image_id"]]
    return clip_box(annotation["bbox"], image["width"], image["height"]) is None


def _sorted_by_id(images: Mapping[int | str, Record]) -> list[tuple[int | str, Record]]:
    """Return (id, image) by ascending id: numbers first, then texts."""
    return sorted(images.items(), key=lambda item: (isinstance(item[0], str), item[0]))
