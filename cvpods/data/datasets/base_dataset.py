"""Base class of data sets, and their concatenation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset

from cvpods.data.datasets import paths
from cvpods.data.detection_utils import (
    annotations_to_instances,
    check_image_size,
    filter_empty_instances,
    read_image,
    reading_options,
)
from cvpods.data.registry import DATASETS
from cvpods.data.white_level import level_of_files
from cvpods.structures.samples import Sample
from cvpods.utils.errors import DataError

if TYPE_CHECKING:
    from cvpods.data.transforms.transform import Annotations, TransformCall, Transformed


class BaseDataset(Dataset):
    """Base class of data sets: images and annotations by index, transformed.

    Attributes:
        meta: thing_classes and other facts about the data set.
        dataset_dicts: a dict per image: file_name, height, width, image_id, annotations.
        data_format: channel order, "BGR" or "RGB".
        aspect_ratios: (number of images,) 1 if the image is wider than high, otherwise 0.
        white_level: the value that becomes 255 in images of more than 8 bits; None without such
            images.

    Args:
        cfg: INPUT.FORMAT, INPUT.WHITE_LEVEL, INPUT.MAX_PIXELS and
            DATALOADER.FILTER_EMPTY_ANNOTATIONS are read from it.
        transforms: the return value of build_transform_gens().
        is_train: leave out crowd boxes and, if FILTER_EMPTY_ANNOTATIONS is set, images without
            boxes.

    Raises:
        DataError: the data set has no images or, for training, no boxes.
    """

    def __init__(
        self,
        cfg: Any,
        dataset_name: str,
        transforms: Sequence[TransformCall] = (),
        is_train: bool = True,
    ) -> None:
        super().__init__()
        self.name = dataset_name
        self.transforms = list(transforms)
        self.is_train = is_train
        self.data_format = cfg.INPUT.FORMAT
        self.meta = self._get_metadata()
        options = reading_options(cfg)
        self.white_level, self.max_pixels = options["white_level"], options["max_pixels"]
        self.dataset_dicts = self._load_annotations()
        self._check_not_empty()
        if is_train and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
            self.dataset_dicts = self._filter_annotations(self.dataset_dicts)
        if self.white_level is None:
            self.white_level = level_of_files([d["file_name"] for d in self.dataset_dicts])
        self.aspect_ratios = np.array(
            [d["width"] > d["height"] for d in self.dataset_dicts], dtype=np.uint8
        )

    def _get_metadata(self) -> dict[str, Any]:
        """Return the attribute `meta`."""
        raise NotImplementedError

    def _load_annotations(self) -> list[dict[str, Any]]:
        """Return the attribute `dataset_dicts`."""
        raise NotImplementedError

    def number_classes(self, names: Sequence[str]) -> None:
        """Number the classes by the position of their names in `names`.

        Args:
            names: the names of this data set's classes, in any order.
        """
        before = self.meta["thing_classes"]
        number = [list(names).index(name) for name in before]
        ids = self.meta["thing_dataset_id_to_contiguous_id"]
        self.meta["thing_classes"] = list(names)
        self.meta["thing_dataset_id_to_contiguous_id"] = {k: number[i] for k, i in ids.items()}
        for record in self.dataset_dicts:
            for annotation in record["annotations"]:
                annotation["category_id"] = number[annotation["category_id"]]

    def coco_ground_truth(self) -> dict[str, Any] | None:
        """Return the ground truth in COCO's json format, or None if the data set has none."""
        raise NotImplementedError

    def _check_not_empty(self) -> None:
        """Raise DataError for a data set without images or, for training, without usable boxes."""
        source = self.meta.get("json_file", self.meta.get("image_root"))
        if not self.dataset_dicts:
            raise DataError(f"Data set {self.name!r} has no images. It was read from {source}.")
        boxes = [a for d in self.dataset_dicts for a in d["annotations"]]
        if not self.is_train or any(not a.get("iscrowd", 0) for a in boxes):
            return
        crowds = (
            f"all of its {len(boxes):,} boxes are crowds (iscrowd 1), which training leaves out"
            if boxes
            else "it has no boxes"
        )
        raise DataError(
            f"Data set {self.name!r} has no images with boxes to learn from: {crowds}. It was read "
            f"from {source}."
        )

    def _filter_annotations(self, dataset_dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the images that have boxes to learn from."""
        return [d for d in dataset_dicts if any(not a.get("iscrowd", 0) for a in d["annotations"])]

    def _apply_transforms(self, image: np.ndarray, annotations: Annotations | None) -> Transformed:
        for transform in self.transforms:
            image, annotations = transform(image, annotations)
        return image, annotations

    def __len__(self) -> int:
        return len(self.dataset_dicts)

    def file_name(self, index: int) -> str:
        """Return the file of an image."""
        return str(self.dataset_dicts[index]["file_name"])

    def __getitem__(self, index: int) -> Sample:
        """Return a sample: "image" (C, H, W) uint8, "instances", height, width, image_id."""
        sample = copy.deepcopy(self.dataset_dicts[index])
        image = read_image(
            sample["file_name"],
            self.data_format,
            white_level=self.white_level,
            max_pixels=self.max_pixels,
        )
        check_image_size(sample, image)
        annotations = [a for a in sample.pop("annotations", []) if not a.get("iscrowd", 0)]
        image, transformed = self._apply_transforms(image, annotations)
        instances = annotations_to_instances(transformed or [], image.shape[:2])
        sample["instances"] = filter_empty_instances(instances)
        # A view, not a copy: (C, H, W) over memory that is (H, W, C).
        sample["image"] = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        return cast(Sample, sample)


@DATASETS.register()
class ConcatDataset(Dataset):
    """Concatenation of data sets with the same classes.

    Raises:
        DataError: the classes differ.
    """

    def __init__(self, datasets: Sequence[BaseDataset]) -> None:
        self.datasets = list(datasets)
        self.ends = np.cumsum([len(dataset) for dataset in self.datasets])
        self.aspect_ratios = np.concatenate([dataset.aspect_ratios for dataset in self.datasets])
        first = self.datasets[0]
        for dataset in self.datasets[1:]:
            if dataset.meta["thing_classes"] != first.meta["thing_classes"]:
                raise DataError(
                    f"Data sets {first.name!r} and {dataset.name!r} have different classes: "
                    f"{first.meta['thing_classes']} and {dataset.meta['thing_classes']}."
                )
        self.meta = self._merged_meta()
        # One level for all data sets, so that equal values stay equal.
        levels = [dataset.white_level for dataset in self.datasets]
        self.white_level = max((level for level in levels if level is not None), default=None)
        for dataset in self.datasets:
            dataset.white_level = self.white_level

    def _merged_meta(self) -> SimpleNamespace:
        merged: dict[str, Any] = {}
        for dataset in self.datasets:
            merged.update(dataset.meta)
        return SimpleNamespace(**merged)

    def number_classes(self, names: Sequence[str]) -> None:
        """Number the classes by the position of their names in `names`, see BaseDataset."""
        for dataset in self.datasets:
            dataset.number_classes(names)
        self.meta = self._merged_meta()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def file_name(self, index: int) -> str:
        """Return the file of an image."""
        dataset, inside = self._locate(index)
        return dataset.file_name(inside)

    def __getitem__(self, index: int) -> Sample:
        dataset, inside = self._locate(index)
        return dataset[inside]

    def _locate(self, index: int) -> tuple[BaseDataset, int]:
        """Return the data set of an index, and the index inside it."""
        index += len(self) if index < 0 else 0
        number = int(np.searchsorted(self.ends, index, side="right"))
        return self.datasets[number], index - (int(self.ends[number - 1]) if number else 0)


def resolve_images(name: str) -> tuple[Path, str]:
    """Return the existing image folder of a data set, and its unresolved annotation file or split.

    Raises:
        DataError: the data set is unknown, or its image folder does not exist.
    """
    image_root, annotations, _ = paths.entry(name)
    return paths.resolve(image_root, f"The image folder of {name!r}"), annotations
