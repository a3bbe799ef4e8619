from cvpods.structures.boxes import Boxes, BoxMode, matched_boxlist_iou, pairwise_ioa, pairwise_iou
from cvpods.structures.image_list import ImageList
from cvpods.structures.instances import Instances

__all__ = [
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "matched_boxlist_iou",
    "pairwise_ioa",
    "pairwise_iou",
]
