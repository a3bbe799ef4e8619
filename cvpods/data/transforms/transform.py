"""Transforms of an image (H, W, C) and of the boxes on it.

A `Transform` is deterministic; a `TransformGen` draws one at random. Both are called with
(image, annotations) and return both; annotations are dicts with "bbox" and "bbox_mode".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from cvpods.data.transforms.resize import resize_bilinear
from cvpods.structures import CONTINUOUS, BoxMode, PixelConvention

Annotations = list[dict[str, Any]]
Transformed = tuple[np.ndarray, Annotations | None]
# A Transform, a TransformGen, or any callable with the same arguments.
TransformCall: TypeAlias = Callable[..., Transformed]


class Transform:
    """Base class and identity; subclasses change the image, the coordinates, or both."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Transform an image, (H, W, C) uint8; the result may have another size."""
        return img

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Transform points (x, y) in pixels, (N, 2) float."""
        return coords

    def apply_box(self, boxes: np.ndarray) -> np.ndarray:
        """Return the boxes around the transformed corners of `boxes`, (N, 4) xyxy, as floats."""
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        corners = boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 2)
        moved = self.apply_coords(corners).reshape(-1, 4, 2)
        return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)

    def apply_annotations(self, annotations: Annotations) -> Annotations:
        """Transform the boxes of annotations; their bbox_mode becomes XYXY_ABS."""
        transformed = []
        for annotation in annotations:
            box = self.apply_box(np.array([xyxy_box(annotation)]))[0].tolist()
            transformed.append({**annotation, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS})
        return transformed

    def __call__(
        self, img: np.ndarray, annotations: Annotations | None = None, **kwargs: Any
    ) -> Transformed:
        img = self.apply_image(img)
        return img, annotations if annotations is None else self.apply_annotations(annotations)


def xyxy_box(annotation: Mapping[str, Any]) -> list[float]:
    """Return the box of an annotation as x1, y1, x2, y2; without "bbox_mode", it is one already."""
    mode = annotation.get("bbox_mode", BoxMode.XYXY_ABS)
    return BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)


class NoOpTransform(Transform):
    """The identity."""


class HFlipTransform(Transform):
    """Horizontal mirroring."""

    def __init__(self, width: int) -> None:
        self.width = width

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return torch.from_numpy(img).flip(1).numpy()  # several times faster than numpy's copy

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return np.stack([self.width - coords[:, 0], coords[:, 1]], axis=1)


class VFlipTransform(Transform):
    """Vertical mirroring."""

    def __init__(self, height: int) -> None:
        self.height = height

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return torch.from_numpy(img).flip(0).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return np.stack([coords[:, 0], self.height - coords[:, 1]], axis=1)


class ResizeTransform(Transform):
    """Bilinear resizing of an (h, w) image to (new_h, new_w), with antialiasing.

    torch's kernel for 8-bit images equals PIL's within one grey level and is several times
    faster.

    Args:
        pixels: convention by which boxes are scaled.
    """

    def __init__(
        self,
        h: int,
        w: int,
        new_h: int,
        new_w: int,
        interp: Any = None,
        pixels: PixelConvention = CONTINUOUS,
    ) -> None:
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.pixels = pixels

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if (self.new_h, self.new_w) == img.shape[:2]:
            return img
        return resize_bilinear(img, self.new_h, self.new_w)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords * [self.new_w / self.w, self.new_h / self.h]

    def apply_box(self, boxes: np.ndarray) -> np.ndarray:
        corner = np.array(self.pixels.corner)
        return super().apply_box(boxes - corner) + corner


class CropTransform(Transform):
    """Crop of the window (x0, y0, w, h); objects whose centre lies outside are removed."""

    def __init__(self, x0: int, y0: int, w: int, h: int) -> None:
        self.x0, self.y0, self.w, self.h = x0, y0, w, h

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(img[self.y0 : self.y0 + self.h, self.x0 : self.x0 + self.w])

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords - [self.x0, self.y0]

    def apply_annotations(self, annotations: Annotations) -> Annotations:
        kept = []
        for annotation in super().apply_annotations(annotations):
            x1, y1, x2, y2 = annotation["bbox"]
            if 0 <= (x1 + x2) / 2 < self.w and 0 <= (y1 + y2) / 2 < self.h:
                box = np.clip([x1, y1, x2, y2], 0, [self.w, self.h, self.w, self.h])
                kept.append({**annotation, "bbox": box.tolist()})
        return kept


class PadTransform(Transform):
    """Padding: the image at (left, top) of an (h, w) canvas filled with one value."""

    def __init__(self, left: int, top: int, h: int, w: int, value: float = 0) -> None:
        self.left, self.top, self.h, self.w, self.value = left, top, h, w, value

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        canvas = np.full((self.h, self.w, img.shape[2]), self.value, dtype=img.dtype)
        canvas[self.top : self.top + img.shape[0], self.left : self.left + img.shape[1]] = img
        return canvas

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords + [self.left, self.top]


class BlendTransform(Transform):
    """Blend src_weight * src_image + dst_weight * image, clipped to [0, 255]."""

    def __init__(self, src_image: np.ndarray | float, src_weight: float, dst_weight: float) -> None:
        self.src_image, self.src_weight, self.dst_weight = src_image, src_weight, dst_weight

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        blended = self.src_weight * np.asarray(self.src_image, np.float32)
        blended = blended + self.dst_weight * img.astype(np.float32)
        return (blended + 0.5).clip(0, 255).astype(np.uint8)


def output_size(
    transforms: Sequence[TransformCall], height: int, width: int
) -> tuple[int, int] | None:
    """Return the size after all `transforms`, or None if it depends on the image or on chance."""
    size: tuple[int, int] | None = (height, width)
    for transform in transforms:
        known = getattr(transform, "output_size", None)
        size = known(*size) if known is not None and size is not None else None
    return size


class ComposeTransform(Transform):
    """Transforms or transform generators, applied one after the other."""

    def __init__(self, tfms: Sequence[TransformCall]) -> None:
        self.transforms = list(tfms)

    def __call__(
        self, img: np.ndarray, annotations: Annotations | None = None, **kwargs: Any
    ) -> Transformed:
        for transform in self.transforms:
            img, annotations = transform(img, annotations, **kwargs)
        return img, annotations

    def output_size(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the size after all transforms, see output_size()."""
        return output_size(self.transforms, height, width)


class TransformGen:
    """Base class of generators, which draw a Transform for an image from np.random."""

    def get_transform(self, img: np.ndarray, annotations: Annotations | None = None) -> Transform:
        """Draw the transform of an image with annotations."""
        raise NotImplementedError

    def output_size(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the (height, width) after the transform.

        Return None if it depends on the content of the image or on a random number.
        """
        return None

    def __call__(
        self, img: np.ndarray, annotations: Annotations | None = None, **kwargs: Any
    ) -> Transformed:
        return self.get_transform(img, annotations)(img, annotations, **kwargs)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in vars(self).items())
        return f"{type(self).__name__}({arguments})"


class SizeKeepingGen(TransformGen):
    """Base class of generators whose transforms keep an image's size."""

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width
