"""White level of images with more than 8 bits a channel: the value that becomes 255.

Cameras and microscopes store 10 or 12 bits in 16-bit files, and programs store floats in 0 ... 1.
A file does not state which value is white, so all images of a data set are scaled by one level,
INPUT.WHITE_LEVEL: a number, or "auto", which derives the level from the data set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from PIL import Image, ImageFile

from cvpods.utils.logger import log_first_n
from cvpods.utils.ranges import AUTO, read_auto

KEY = "INPUT.WHITE_LEVEL"
# White in 8, 10, 12, 14 and 16 bits.
LEVELS = (255, 1023, 4095, 16383, 65535)
# Number of files that "auto" reads.
_SAMPLE = 64


def is_deep(image: Image.Image) -> bool:
    """Return whether an image has one channel of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def has_deep_colours(image: Image.Image) -> bool:
    """Return whether a file has 16 bits a colour channel; Pillow reads only the upper 8."""
    # An entry of `tile` ends with the raw mode, "RGB;16B" for example, or a tuple that begins so.
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    modes = [np.atleast_1d(np.asarray(tile[3], dtype=object))[0] for tile in tiles]
    return any(re.match(r"(RGB|LA|CMYK)\w*;16", str(mode)) for mode in modes)


def level_of(highest: float, is_float: bool) -> float:
    """Return the white level of images whose highest value is `highest`.

    The level is the lowest of 255, 1023, 4095, 16383, 65535 (and 1 for floats) that is not below
    `highest`; above 65535, it is the next power of two minus 1.
    """
    if is_float and highest <= 1:
        return 1.0
    fitting = [level for level in LEVELS if highest <= level]
    return float(fitting[0] if fitting else 2 ** int(np.ceil(np.log2(highest + 1))) - 1)


def to_8_bit(image: Image.Image, white_level: float | None, name: str) -> Image.Image:
    """Scale a deep image so that `white_level` becomes 255; return other images unchanged.

    Args:
        white_level: None guesses the level from this image alone and logs the guess.
        name: the image's name in the log.
    """
    if not is_deep(image):
        return image
    values = np.asarray(image, dtype=np.float64)
    low, high = finite_range(values)
    if white_level is None:
        white_level = _guess(image, high, name)
    is_float = image.mode == "F"
    # Whole numbers fall into 256 equal steps, so that 16 bits keep their upper 8.
    scaled = values * 255 / white_level if is_float else values * 256 / (white_level + 1)
    if low < 0 or high > white_level:
        log_first_n(
            "WARNING",
            f"{name} has values from {low:g} to {high:g}; values below 0 become black, and values "
            f"above INPUT.WHITE_LEVEL {white_level:g} become white.",
            key="caller",
        )
    return Image.fromarray(np.nan_to_num(scaled, nan=0.0).clip(0, 255).astype(np.uint8))


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """Return the lowest and highest finite value; depth maps contain NaN for unknown values."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _guess(image: Image.Image, highest: float, name: str) -> float:
    """Return the white level of one image: the level of its type, unless its values are small."""
    if image.mode == "F" and highest <= 1:
        level = 1.0
    elif not image.mode.startswith("I;16") and highest <= 255:
        level = 255.0
    else:
        level = 65535.0
    if level != level_of(highest, image.mode == "F"):
        log_first_n(
            "WARNING",
            f"{name} has values up to {highest:g} and is scaled as if {level:g} were white; set "
            "INPUT.WHITE_LEVEL to the value that is white.",
            key="caller",
        )
    return level


def level_of_files(files: Sequence[str | Path]) -> float | None:
    """Return the white level of a data set's images, from a sample; None if all have 8 bits.

    The sample is the same in every process: 64 files at even distances.
    """
    chosen = np.unique(np.linspace(0, max(len(files) - 1, 0), min(_SAMPLE, len(files))).astype(int))
    return level_of_values(_highest_value(files[index]) for index in chosen)


def level_of_values(values: Iterable[tuple[float, bool] | None]) -> float | None:
    """Return the white level of images, given (highest value, is float) of each deep one."""
    levels = [level_of(*value) for value in values if value is not None]
    return max(levels, default=None)


def _highest_value(file: str | Path) -> tuple[float, bool] | None:
    """Return (highest value, is float) of a deep image; None for others and unreadable ones."""
    try:
        if not Path(file).is_file():
            return None
        with Image.open(file) as image:
            if not is_deep(image):
                return None
            return finite_range(np.asarray(image))[1], image.mode == "F"
    except Exception as error:  # reading it as a sample reports what is wrong with it
        logger.debug(f"{file} is not used for the white level: {error}")
        return None


def settle_white_level(cfg: Any, dataset: Any) -> None:
    """Make the training data and the config, which evaluation reads, agree on one white level.

    The config decides: by a number of its own, or by that of the weights it started from. If it is
    "auto", the level of the training data is written to the config.

    Args:
        dataset: the training data set; a user's own class may lack the attribute `white_level`.
    """
    level = read_auto(KEY, cfg.INPUT.get("WHITE_LEVEL", AUTO))
    if level is None:
        level = getattr(dataset, "white_level", None)
        if level is None:
            return  # images of 8 bits
        cfg.INPUT.WHITE_LEVEL = f"{level:g}"
        logger.info(f"{KEY} is {level:g}, the level of the training images.")
    for part in (dataset, *getattr(dataset, "datasets", ())):
        part.white_level = level


def expected_white_level(cfg: Any) -> dict[str, str]:
    """Return {key: value} that a config must have to use the weights; {} for images of 8 bits."""
    level = cfg.INPUT.get("WHITE_LEVEL", AUTO)
    return {} if level == AUTO else {KEY: str(level)}
