"""Boxes, instances and batches of images."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.structures.boxes import (
        Boxes,
        BoxMode,
        matched_boxlist_iou,
        pairwise_ioa,
        pairwise_iou,
    )
    from cvpods.structures.image_list import ImageList
    from cvpods.structures.instances import Instances
    from cvpods.structures.pixels import CONTINUOUS, LAST_PIXEL, PixelConvention

__all__ = lazy_names(
    __name__,
    {
        "boxes": ["Boxes", "BoxMode", "matched_boxlist_iou", "pairwise_ioa", "pairwise_iou"],
        "image_list": ["ImageList"],
        "instances": ["Instances"],
        "pixels": ["CONTINUOUS", "LAST_PIXEL", "PixelConvention"],
    },
)
