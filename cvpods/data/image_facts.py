"""Facts about an image file: its size, orientation and values."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cvpods.data.detection_utils import image_to_array, open_image
from cvpods.data.white_level import finite_range, has_deep_colours, is_deep

_ORIENTATION = 0x0112


class DeepValues(NamedTuple):
    """Range of the values of an image with more than 8 bits, and whether they are floats."""

    lowest: float
    highest: float
    is_float: bool


class ImageFacts(NamedTuple):
    """Facts about an image file.

    height, width: size in pixels after the EXIF orientation is applied.
    stored: (height, width) before that.
    orientation: EXIF orientation, 1 ... 8.
    deep_colours: the file has 16 bits a colour channel, of which only the upper 8 are read.
    deep: values of a one-channel image of more than 8 bits; None for other images.
    """

    height: int
    width: int
    stored: tuple[int, int]
    orientation: int
    deep_colours: bool = False
    deep: DeepValues | None = None


def image_facts(path: str | Path, max_pixels: int | None = None) -> ImageFacts:
    """Read a complete image file and return its facts.

    Raises:
        DataError: the file cannot be read.
    """
    with open_image(path, max_pixels) as image:
        deep_colours = has_deep_colours(image)
        orientation = _orientation(image)
        stored = (image.height, image.width)
        if image.format == "TIFF" and orientation >= 5:
            stored = stored[::-1]  # for TIFF, Pillow returns the size of the turned image
        # A given level keeps image_to_array from guessing, and from warning about its guess.
        height, width = image_to_array(image, "RGB", str(path), white_level=65535).shape[:2]
        deep = None
        if is_deep(image):
            deep = DeepValues(*finite_range(np.asarray(image)), image.mode == "F")
        return ImageFacts(height, width, stored, orientation, deep_colours, deep)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation or 1. Pillow drops it when it reads the pixels of a TIFF."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # reading the pixels reports what is wrong with the file
        value = 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
