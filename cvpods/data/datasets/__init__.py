"""Data sets in COCO's and VOC's formats."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.data.datasets.base_dataset import (
        BaseDataset,
        ConcatDataset,
    )
    from cvpods.data.datasets.coco import COCODataset
    from cvpods.data.datasets.paths import register_coco_instances
    from cvpods.data.datasets.voc import VOCDataset

__all__ = lazy_names(
    __name__,
    {
        "base_dataset": ["BaseDataset", "ConcatDataset"],
        "coco": ["COCODataset"],
        "paths": ["register_coco_instances"],
        "voc": ["VOCDataset"],
    },
)
