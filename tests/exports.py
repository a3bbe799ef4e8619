"""One data set as the COCO exports of dataset tools write it.

EXPORTS maps a tool to a function (content, folder of the images) -> content. The shapes were seen
in files that these versions wrote (docs/data.md); the functions rewrite ids, order, keys, numbers
and file names, and move the image files if the tool keeps folders.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Content = dict[str, Any]


def _renumbered(
    content: Content,
    *,
    images: int,
    annotations: int,
    categories: int,
    class_order: Callable[[Content], list[Any]] | None = None,
) -> Content:
    """The content with ids from these first numbers, and classes in another order."""
    content = copy.deepcopy(content)
    order = (
        [c["id"] for c in content["categories"]] if class_order is None else class_order(content)
    )
    class_ids = {id_: categories + i for i, id_ in enumerate(order)}
    image_ids = {image["id"]: images + i for i, image in enumerate(content["images"])}
    by_id = {c["id"]: c for c in content["categories"]}
    content["categories"] = [{"id": class_ids[i], "name": by_id[i]["name"]} for i in order]
    for image in content["images"]:
        image["id"] = image_ids[image["id"]]
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = annotations + number
        annotation["image_id"] = image_ids[annotation["image_id"]]
        annotation["category_id"] = class_ids[annotation["category_id"]]
    return content


def _by_name(content: Content) -> list[Any]:
    return [c["id"] for c in sorted(content["categories"], key=lambda c: c["name"])]


def _by_appearance(content: Content) -> list[Any]:
    seen = dict.fromkeys(a["category_id"] for a in content["annotations"])
    return [*seen, *(c["id"] for c in content["categories"] if c["id"] not in seen)]


def _boxes(content: Content, change: Callable[[float], float], **keys: Any) -> None:
    for annotation in content["annotations"]:
        annotation["bbox"] = [change(value) for value in annotation["bbox"]]
        annotation["area"] = float(annotation["bbox"][2] * annotation["bbox"][3])
        annotation.update(iscrowd=0, segmentation=[], **keys)


def supervision(content: Content, folder: Path) -> Content:
    """0.31.2: ids from 1, numbers that went through float32."""
    content = _renumbered(content, images=1, annotations=1, categories=1)
    _boxes(content, lambda value: float(np.float32(value)))
    for image in content["images"]:
        image.update(license=1, date_captured="11/27/2026,18:51:29")
    for category in content["categories"]:
        category["supercategory"] = "common-objects"
    return {"info": {}, "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}], **content}


def globox(content: Content, folder: Path) -> Content:
    """2.9.0: everything from 0, classes by name, images in another order, "ignore" too."""
    content = _renumbered(content, images=0, annotations=0, categories=0, class_order=_by_name)
    _boxes(content, float, ignore=0)
    content["images"] = content["images"][::2] + content["images"][1::2]
    for category in content["categories"]:
        category["supercategory"] = "none"
    return content


def label_studio(content: Content, folder: Path) -> Content:
    """label-studio-sdk 2.1.2: everything from 0, noise in the last digits, paths that climb."""
    content = _renumbered(content, images=0, annotations=0, categories=0, class_order=_by_name)
    _boxes(content, lambda value: value / 640 * 100 * 640 / 100, ignore=0)
    for image in content["images"]:
        image["file_name"] = f"../{folder.name}/{image['file_name']}"
    info = {"year": 2026, "version": "1.0", "contributor": "Label Studio"}
    return {**content, "info": info}


def label_studio_on_windows(content: Content, folder: Path) -> Content:
    """The same with the separators of Windows."""
    content = label_studio(content, folder)
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace("/", "\\")
    return content


def labelme2coco(content: Content, folder: Path) -> Content:
    """0.2.6: classes from 0 in the order of their first box, whole areas, the folder's name."""
    content = _renumbered(
        content, images=1, annotations=1, categories=0, class_order=_by_appearance
    )
    _boxes(content, float)
    for annotation in content["annotations"]:
        annotation["area"] = int(annotation["area"])
    for category in content["categories"]:
        category["supercategory"] = category["name"]
    _nest(content, folder, "lm")
    return content


def sahi(content: Content, folder: Path) -> Content:
    """0.12.8: images and boxes from 1, classes from 0, whole areas."""
    content = _renumbered(content, images=1, annotations=1, categories=0)
    _boxes(content, float)
    for annotation in content["annotations"]:
        annotation["area"] = int(annotation["area"])
    return content


def datumaro(content: Content, folder: Path) -> Content:
    """1.13.12: ids from 1, two decimals, empty texts where others have numbers."""
    content = _renumbered(content, images=1, annotations=1, categories=1)
    _boxes(content, lambda value: round(float(value), 2))
    for image in content["images"]:
        image.update(license=0, flickr_url="", coco_url="", date_captured=0)
    for category in content["categories"]:
        category["supercategory"] = ""
    info = dict.fromkeys(
        ("contributor", "date_created", "description", "url", "version", "year"), ""
    )
    return {"licenses": [{"name": "", "id": 0, "url": ""}], "info": info, **content}


def cvat(content: Content, folder: Path) -> Content:
    """As datumaro writes it, with attributes and the folders of the upload."""
    content = datumaro(content, folder)
    for annotation in content["annotations"]:
        annotation["attributes"] = {"occluded": False, "rotation": 0.0}
    _nest(content, folder, "cam1/day2")
    return content


def fiftyone(content: Content, folder: Path) -> Content:
    """1.22.1: ids from 1, classes by name, null for what is not known, no segmentation."""
    content = _renumbered(content, images=1, annotations=1, categories=1, class_order=_by_name)
    _boxes(content, float)
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    for category in content["categories"]:
        category["supercategory"] = None
    for image in content["images"]:
        image.update(license=None, coco_url=None)
    return {"info": {"year": "", "version": ""}, "licenses": [], **content}


def roboflow(content: Content, folder: Path) -> Content:
    """Ids from 0, and a root class with id 0 that has no boxes."""
    content = _renumbered(content, images=0, annotations=0, categories=1, class_order=_by_name)
    _boxes(content, float)
    for category in content["categories"]:
        category["supercategory"] = "cells"
    root = {"id": 0, "name": "cells", "supercategory": "none"}
    content["categories"].insert(0, root)
    for image in content["images"]:
        stem, _, ending = image["file_name"].rpartition(".")
        name = f"{stem}_{ending}.rf.{'0123456789abcdef' * 2}.{ending}"
        (folder / image["file_name"]).rename(folder / name)
        image.update(file_name=name, license=1)
    return {"info": {"year": "2020", "version": "1"}, **content}


def _nest(content: Content, folder: Path, below: str) -> None:
    """Move the images into a folder below and name it."""
    (folder / below).mkdir(parents=True)
    for image in content["images"]:
        (folder / image["file_name"]).rename(folder / below / image["file_name"])
        image["file_name"] = f"{below}/{image['file_name']}"


EXPORTS: dict[str, Callable[[Content, Path], Content]] = {
    "supervision": supervision,
    "globox": globox,
    "Label Studio": label_studio,
    "Label Studio on Windows": label_studio_on_windows,
    "labelme2coco": labelme2coco,
    "sahi": sahi,
    "datumaro": datumaro,
    "CVAT": cvat,
    "fiftyone": fiftyone,
    "Roboflow": roboflow,
}
