"""PASCAL VOC data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cvpods.data.datasets import paths
from cvpods.data.datasets.base_dataset import BaseDataset, resolve_images
from cvpods.data.registry import DATASETS
from cvpods.structures import BoxMode
from cvpods.utils.coco_values import has_area, read_number, read_side
from cvpods.utils.errors import DataError
from cvpods.utils.files import check_regular, read_text

VOC_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
).split()


@DATASETS.register()
class VOCDataset(BaseDataset):
    """A PASCAL VOC data set: the folders Annotations, ImageSets/Main and JPEGImages.

    Its names are voc_{2007,2012}_{train,val,trainval,test}. VOC counts pixels from 1 and stores the
    first and last pixel of a box, x1 and x2; in continuous coordinates, its sides are x1 - 1 and
    x2. Training uses "difficult" objects; evaluation ignores them.
    """

    def _get_metadata(self) -> dict[str, Any]:
        root, split = resolve_images(self.name)
        return {
            "thing_classes": list(VOC_CLASSES),
            "thing_dataset_id_to_contiguous_id": {i + 1: i for i in range(len(VOC_CLASSES))},
            "image_root": str(root),
            "split": split,
            "leave_out_ignored": True,
            "evaluator_type": paths.entry(self.name)[2],
        }

    def _load_annotations(self) -> list[dict[str, Any]]:
        root = Path(self.meta["image_root"])
        split_file = root / "ImageSets" / "Main" / f"{self.meta['split']}.txt"
        if not split_file.exists():
            raise DataError(f"Split file {split_file} of {self.name!r} does not exist.")
        # A label may follow the name, as in the lists of single classes.
        names = [line.split()[0] for line in read_text(split_file).splitlines() if line.strip()]
        return [_load_xml(root, name, index) for index, name in enumerate(names)]

    def coco_ground_truth(self) -> dict[str, Any] | None:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for sample in self.dataset_dicts:
            keys = ("height", "width", "file_name")
            images.append({"id": sample["image_id"], **{k: sample[k] for k in keys}})
            for a in sample["annotations"]:
                box = BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYWH_ABS)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": sample["image_id"],
                        "category_id": a["category_id"] + 1,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                        "ignore": a["difficult"],
                    }
                )
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(VOC_CLASSES)]
        return {
            "info": {},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }


def _load_xml(folder: Path, name: str, index: int) -> dict[str, Any]:
    xml_file = folder / "Annotations" / f"{name}.xml"
    try:
        check_regular(xml_file)
        root = ElementTree.parse(xml_file).getroot()
        return {
            "file_name": str(folder / "JPEGImages" / f"{name}.jpg"),
            "image_id": index,
            "height": read_side(_text(root, "size/height")),
            "width": read_side(_text(root, "size/width")),
            "annotations": [_load_object(obj) for obj in root.findall("object")],
        }
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"VOC annotation {xml_file} cannot be used: {error}") from error


def _load_object(obj: ElementTree.Element) -> dict[str, Any]:
    sides = ("xmin", "ymin", "xmax", "ymax")
    x1, y1, x2, y2 = (read_number(_text(obj, f"bndbox/{side}")) for side in sides)
    if not has_area([x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]):
        raise ValueError(f"the box {x1:g}, {y1:g}, {x2:g}, {y2:g} has no area")
    name = _text(obj, "name")
    if name not in VOC_CLASSES:
        raise ValueError(
            f"{name!r} is not one of the {len(VOC_CLASSES)} classes of VOC. Other classes need "
            "annotations in COCO's format and register_coco_instances(), see docs/data.md"
        )
    return {
        "category_id": VOC_CLASSES.index(name),
        "bbox": [x1 - 1, y1 - 1, x2, y2],
        "bbox_mode": BoxMode.XYXY_ABS,
        "difficult": int((obj.findtext("difficult") or "").strip() == "1"),
    }


def _text(node: ElementTree.Element, path: str) -> str:
    """Return the text of an element.

    Raises:
        ValueError: the element is missing.
    """
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"<{path}> is missing")
    return text.strip()
