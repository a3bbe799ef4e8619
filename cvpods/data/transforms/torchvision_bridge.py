"""torchvision's transforms in pipelines of (image, annotations)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from cvpods.data.registry import TRANSFORMS
from cvpods.data.transforms.transform import Annotations, Transformed, TransformGen, xyxy_box
from cvpods.structures import BoxMode


@TRANSFORMS.register()
class TorchTransformGen(TransformGen):
    """Any torchvision v2 transform; random numbers come from torch.

    If the transform removes a box (v2.SanitizeBoundingBoxes may follow it), its annotation is
    removed as well.

    Args:
        tfm: the transform, called with a dict of image, boxes and labels.
    """

    def __init__(self, tfm: Callable[..., Any]) -> None:
        self.transform = tfm

    def __call__(
        self, img: np.ndarray, annotations: Annotations | None = None, **kwargs: Any
    ) -> Transformed:
        boxes = [xyxy_box(annotation) for annotation in annotations or []]
        sample = {
            "image": tv_tensors.Image(torch.from_numpy(img).permute(2, 0, 1)),
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
                format="XYXY",
                canvas_size=img.shape[:2],
            ),
            "labels": torch.arange(len(boxes)),
        }
        sample = self.transform(sample)
        image = np.ascontiguousarray(sample["image"].permute(1, 2, 0).numpy())
        if annotations is None:
            return image, None
        boxes = v2.functional.clamp_bounding_boxes(sample["boxes"]).tolist()
        return image, [
            {**annotations[i], "bbox": box, "bbox_mode": BoxMode.XYXY_ABS}
            for i, box in zip(sample["labels"].tolist(), boxes, strict=True)
            if box[0] < box[2] and box[1] < box[3]
        ]


@TRANSFORMS.register()
class MinIoURandomCrop(TorchTransformGen):
    """SSD's crop: a window that overlaps objects by at least a drawn IoU, or the full image."""

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
    ) -> None:
        options = [0.0, *min_ious, 1.0]  # 1.0: leave the image as it is
        super().__init__(v2.RandomIoUCrop(min_scale=min_crop_size, sampler_options=options))

    def __call__(
        self, img: np.ndarray, annotations: Annotations | None = None, **kwargs: Any
    ) -> Transformed:
        if not annotations:  # no object to overlap
            return img, annotations
        return super().__call__(img, annotations, **kwargs)


@TRANSFORMS.register()
class Expand(TorchTransformGen):
    """The image on a canvas filled with `mean`, larger by a factor drawn from `ratio_range`."""

    def __init__(
        self,
        ratio_range: Sequence[float] = (1, 4),
        mean: Sequence[float] = (0, 0, 0),
        prob: float = 0.5,
    ) -> None:
        super().__init__(v2.RandomZoomOut(fill=list(mean), side_range=tuple(ratio_range), p=prob))


@TRANSFORMS.register()
class RandomDistortion(TorchTransformGen):
    """Random changes of hue, saturation and brightness.

    Args:
        hue: largest shift, as a fraction of the colour circle.
        saturation, exposure: largest factor by which saturation and brightness grow or shrink.
    """

    def __init__(
        self, hue: float, saturation: float, exposure: float, image_format: str = "BGR"
    ) -> None:
        super().__init__(
            v2.ColorJitter(
                brightness=(1 / exposure, exposure),
                saturation=(1 / saturation, saturation),
                hue=hue,
            )
        )
        self.image_format = image_format

    def __call__(
        self, img: np.ndarray, annotations: Annotations | None = None, **kwargs: Any
    ) -> Transformed:
        if self.image_format != "BGR":
            return super().__call__(img, annotations, **kwargs)
        img, annotations = super().__call__(np.ascontiguousarray(img[..., ::-1]), annotations)
        return np.ascontiguousarray(img[..., ::-1]), annotations
