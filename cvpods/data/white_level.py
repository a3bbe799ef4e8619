"""Images of more than 8 bits a channel: which of their values is white.

Cameras and microscopes store 10 or 12 bits in 16-bit files, and programs store floats in 0 ... 1.
A file does not say which value is white, so all images of a data set are scaled by one level,
INPUT.WHITE_LEVEL: a number, or "auto", which looks at the data set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from PIL import Image

from cvpods.utils.logger import log_first_n
from cvpods.utils.ranges import AUTO, read_auto

KEY = "INPUT.WHITE_LEVEL"
# White in 8, 10, 12, 14 and 16 bits.
LEVELS = (255, 1023, 4095, 16383, 65535)
# Files whose pixels are looked at for "auto".
_SAMPLE = 64


def is_deep(image: Image.Image) -> bool:
    """Return whether an image has one channel of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def has_deep_colours(image: Image.Image) -> bool:
    """Return whether a file has colours of 16 bits, of which Pillow reads the upper 8 alone."""
    # An entry of `tile` ends with the raw mode, "RGB;16B" for example, or a tuple that begins so.
    modes = [np.atleast_1d(np.asarray(tile[3], dtype=object))[0] for tile in image.tile]
    return any(re.match(r"(RGB|LA|CMYK)\w*;16", str(mode)) for mode in modes)


def level_of(highest: float, is_float: bool) -> float:
    """Return the white level of images whose highest value is `highest`.

    It is the lowest of 255, 1023, 4095, 16383, 65535 (and 1 for floats) that is not below it; above
    these, the next power of two less 1.
    """
    if is_float and highest <= 1:
        return 1.0
    fitting = [level for level in LEVELS if highest <= level]
    return float(fitting[0] if fitting else 2 ** int(np.ceil(np.log2(highest + 1))) - 1)


def to_8_bit(image: Image.Image, white_level: float | None, name: str) -> Image.Image:
    """Scale a deep image so that `white_level` becomes 255; others are returned as they are.

    Args:
        white_level: None guesses from the image alone, and says so in the log.
        name: names the image in the log.
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
            f"{name} has values from {low:g} to {high:g}; those below 0 become black, those above "
            f"INPUT.WHITE_LEVEL {white_level:g} white.",
            key="caller",
        )
    return Image.fromarray(np.nan_to_num(scaled, nan=0.0).clip(0, 255).astype(np.uint8))


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """Return the lowest and highest finite value; depth maps have NaN for what is unknown."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _guess(image: Image.Image, highest: float, name: str) -> float:
    """Return the white level of a single image: that of its type, unless its values are small."""
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
            "INPUT.WHITE_LEVEL to the value that is.",
            key="caller",
        )
    return level


def level_of_files(files: Sequence[str | Path]) -> float | None:
    """Return the white level of a data set's images by a sample of them; None if all have 8 bits.

    The sample is the same in every process: 64 files at even distances.
    """
    chosen = np.unique(np.linspace(0, max(len(files) - 1, 0), min(_SAMPLE, len(files))).astype(int))
    return level_of_values(_extremes(files[index]) for index in chosen)


def level_of_values(extremes: Iterable[tuple[float, bool] | None]) -> float | None:
    """Return the white level of images, given (highest value, is float) of each deep one."""
    levels = [level_of(*found) for found in extremes if found is not None]
    return max(levels, default=None)


def _extremes(file: str | Path) -> tuple[float, bool] | None:
    """Return (highest value, is float) of a deep image; None for others and unreadable ones."""
    try:
        if not Path(file).is_file():
            return None
        with Image.open(file) as image:
            return (
                (finite_range(np.asarray(image))[1], image.mode == "F") if is_deep(image) else None
            )
    except Exception as error:  # reading it for a sample says what is wrong, and where
        logger.debug(f"{file} is left out of the look at white levels: {error}")
        return None


def settle_white_level(cfg: Any, dataset: Any) -> None:
    """Make the training data and the config, for evaluation, agree on one white level.

    The config decides: a number of its own, or that of the weights it started from. With
    "auto", the level of the training data goes into the config.

    Args:
        dataset: of training; one of a user's own may have no `white_level`.
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
    """Return what weights expect of the config that they are used in: {} for images of 8 bits."""
    level = cfg.INPUT.get("WHITE_LEVEL", AUTO)
    return {} if level == AUTO else {KEY: str(level)}
