from cvpods.data.datasets.base_dataset import BaseDataset, ConcatDataset
from cvpods.data.datasets.coco import COCODataset
from cvpods.data.datasets.paths import register_coco_instances
from cvpods.data.datasets.voc import VOCDataset

__all__ = ["BaseDataset", "COCODataset", "ConcatDataset", "VOCDataset", "register_coco_instances"]
