from cvpods.structures.boxes import Boxes, BoxMode, matched_boxlist_iou, pairwise_ioa, pairwise_iou
from cvpods.structures.image_list import ImageList
from cvpods.structures.instances import Instances
from cvpods.structures.pixels import CONTINUOUS, LAST_PIXEL, PixelConvention

__all__ = [
    "CONTINUOUS",
    "LAST_PIXEL",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "PixelConvention",
    "matched_boxlist_iou",
    "pairwise_ioa",
    "pairwise_iou",
]
