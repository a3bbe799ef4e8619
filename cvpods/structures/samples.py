"""Types of the inputs of a detector and of its detections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

    from cvpods.structures.instances import Instances


class Sample(TypedDict, total=False):
    """One image as a data set's mapper hands it to a detector; only "image" is required.

    image: (C, H, W) uint8, or float in [0, 255].
    instances: ground truth with gt_boxes and gt_classes; training needs it.
    targets: older name of instances.
    height, width: size in pixels that detections are scaled to.
    """

    image: Tensor
    instances: Instances
    targets: Instances
    height: int
    width: int
    file_name: str
    image_id: Any
    dataset_name: str


class Detection(TypedDict):
    """Result of one image: Instances with pred_boxes, scores and pred_classes."""

    instances: Instances
