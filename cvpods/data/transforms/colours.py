"""Transform generators of colours."""

from __future__ import annotations

import numpy as np

from cvpods.data.registry import TRANSFORMS
from cvpods.data.transforms.transform import (
    Annotations,
    BlendTransform,
    NoOpTransform,
    SizeKeepingGen,
    Transform,
)


class _RandomBlend(SizeKeepingGen):
    """Base class of colour changes: image * w + source * (1 - w), w uniform in [min, max]."""

    def __init__(
        self,
        intensity_min: float,
        intensity_max: float,
        prob: float = 1.0,
        image_format: str = "BGR",
    ) -> None:
        self.intensity_min, self.intensity_max = intensity_min, intensity_max
        self.prob, self.image_format = prob, image_format

    def source(self, img: np.ndarray) -> np.ndarray | float:
        """Return the image or value to blend with."""
        raise NotImplementedError

    def get_transform(self, img: np.ndarray, annotations: Annotations | None = None) -> Transform:
        if np.random.rand() >= self.prob:
            return NoOpTransform()
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(self.source(img), 1 - weight, weight)


@TRANSFORMS.register()
class RandomContrast(_RandomBlend):
    """Blending with the mean grey level: w < 1 lowers the contrast, w > 1 raises it."""

    def source(self, img: np.ndarray) -> float:
        return img.mean()


@TRANSFORMS.register()
class RandomBrightness(_RandomBlend):
    """Blending with black: w < 1 darkens, w > 1 brightens."""

    def source(self, img: np.ndarray) -> float:
        return 0.0


@TRANSFORMS.register()
class RandomSaturation(_RandomBlend):
    """Blending with the grayscale image: w < 1 lowers the saturation, w > 1 raises it."""

    def source(self, img: np.ndarray) -> np.ndarray:
        weights = np.array([0.299, 0.587, 0.114], np.float32)
        weights = weights[::-1] if self.image_format == "BGR" else weights
        return (img @ weights)[..., None]


@TRANSFORMS.register()
class RandomLighting(SizeKeepingGen):
    """AlexNet's colour shift along the principal components of ImageNet's RGB values."""

    _EIGENVECTORS = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    _EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])

    def __init__(self, scale: float, image_format: str = "BGR") -> None:
        self.scale, self.image_format = scale, image_format

    def get_transform(self, img: np.ndarray, annotations: Annotations | None = None) -> Transform:
        weights = np.random.normal(scale=self.scale, size=3)
        shift = self._EIGENVECTORS @ (weights * self._EIGENVALUES) * 255
        return BlendTransform(shift[::-1] if self.image_format == "BGR" else shift, 1.0, 1.0)


class _PermuteChannels(Transform):
    """Reordering of the colour channels."""

    def __init__(self, order: np.ndarray) -> None:
        self.order = order

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(img[..., self.order])


@TRANSFORMS.register()
class RandomSwapChannels(SizeKeepingGen):
    """Shuffling of the colour channels with probability `prob`."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def get_transform(self, img: np.ndarray, annotations: Annotations | None = None) -> Transform:
        if np.random.rand() >= self.prob:
            return NoOpTransform()
        return _PermuteChannels(np.random.permutation(img.shape[2]))
