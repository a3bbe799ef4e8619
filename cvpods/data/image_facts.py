"""Facts about an image file: its size, orientation and values."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cvpods.data.detection_utils import image_to_array, open_image
from cvpods.data.white_level import finite_range, has_deep_colours, is_deep

_ORIENTATION = 0x0112


class ImageFacts(NamedTuple):
    """Facts about an image file.

    height, width: once it is turned as EXIF says. stored: (height, width) before that.
    orientation: EXIF's, 1 ... 8. lowest, highest: values of an image of more than 8 bits; None for
    others. deep_colours: colours of 16 bits, of which only the upper 8 are read.
    """

    height: int
    width: int
    stored: tuple[int, int]
    orientation: int
    lowest: float | None = None
    highest: float | None = None
    is_float: bool = False
    deep_colours: bool = False


def image_facts(path: str | Path, max_pixels: int | None = None) -> ImageFacts:
    """Read a whole image file and return its facts.

    Raises:
        DataError: it cannot be read.
    """
    with open_image(path, max_pixels) as image:
        deep_colours = has_deep_colours(image)
        orientation = _orientation(image)
        stored = (image.height, image.width)
        if image.format == "TIFF" and orientation >= 5:
            stored = stored[::-1]  # Pillow gives the size of the turned image
        # A level keeps image_to_array from guessing, and from warning about its guess.
        height, width = image_to_array(image, "RGB", str(path), white_level=65535).shape[:2]
        facts = ImageFacts(height, width, stored, orientation, deep_colours=deep_colours)
        return facts._replace(**_values(image)) if is_deep(image) else facts


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation or 1. Pillow takes it away when it reads the pixels of a TIFF."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # reading the pixels says what is wrong with the file
        value = 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _values(image: Image.Image) -> dict[str, float | bool]:
    lowest, highest = finite_range(np.asarray(image))
    return {"lowest": lowest, "highest": highest, "is_float": image.mode == "F"}
