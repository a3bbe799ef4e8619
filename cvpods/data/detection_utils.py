"""Conversion of image files to arrays and of annotations to Instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from cvpods.data.white_level import to_8_bit
from cvpods.structures import Boxes, BoxMode, Instances
from cvpods.utils.errors import DataError
from cvpods.utils.files import check_regular
from cvpods.utils.ranges import AUTO, read_auto

_UNREADABLE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
)


_RAISE_MAX_PIXELS = " If the image is the one you expect, raise INPUT.MAX_PIXELS."


class SizeMismatchError(DataError):
    """An image whose size differs from its annotation."""


class ReadingOptions(TypedDict):
    """Keyword arguments of read_image() that the config sets."""

    white_level: float | None
    max_pixels: int | None


def read_image(
    file_name: str | Path,
    format: str | None = "BGR",
    *,
    white_level: float | None = None,
    max_pixels: int | None = None,
) -> np.ndarray:
    """Read an image file and apply its EXIF orientation.

    Grayscale, palette, CMYK and 16-bit files become three channels of 8 bits.

    Args:
        format: "BGR", "RGB" or "L"; None is RGB.
        white_level: the value that becomes 255 in images of more than 8 bits, see white_level.py.
        max_pixels: refuse larger images; None keeps Pillow's limit.

    Returns:
        (H, W, 3) uint8, writable; (H, W, 1) for "L".

    Raises:
        DataError: the file is missing or is not a readable image.
    """
    with open_image(file_name, max_pixels) as opened:
        return image_to_array(opened, format, str(file_name), white_level)


def reading_options(cfg: Any) -> ReadingOptions:
    """Return the keyword arguments of read_image() that the config sets."""
    return {
        "white_level": read_auto("INPUT.WHITE_LEVEL", cfg.INPUT.get("WHITE_LEVEL", AUTO)),
        "max_pixels": cfg.INPUT.get("MAX_PIXELS"),
    }


@contextmanager
def open_image(file_name: str | Path, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """Open an image file with Pillow while the context lasts; its pixels are read on first use.

    Raises:
        DataError: the file is missing, is not a regular file or not an image, or is too large.
    """
    limit = Image.MAX_IMAGE_PIXELS  # Pillow warns above this limit, and refuses above twice as many
    if max_pixels is not None and limit is not None:
        Image.MAX_IMAGE_PIXELS = max(limit, -(-max_pixels // 2))
    with ExitStack() as stack:
        try:
            check_regular(file_name)
            # Given a name, Pillow maps gray TIFFs into memory and does not turn them.
            file = stack.enter_context(open(file_name, "rb"))
            image = stack.enter_context(Image.open(file))
        except FileNotFoundError:
            raise DataError(f"Image {file_name!s:.300} does not exist.") from None
        except _UNREADABLE as error:
            raise _unreadable(str(file_name), error) from error
        pixels = image.width * image.height
        if max_pixels is not None and limit is not None and pixels > max_pixels:
            raise DataError(
                f"Image {file_name!s:.300} cannot be read: it has {pixels:,} pixels, more than "
                f"INPUT.MAX_PIXELS {max_pixels:,}.{_RAISE_MAX_PIXELS}"
            )
        yield image


def _unreadable(name: str, error: Exception) -> DataError:
    advice = ""
    if isinstance(error, Image.DecompressionBombError):
        advice = _RAISE_MAX_PIXELS
    return DataError(f"Image {name!s:.300} cannot be read: {error}{advice}")


def image_to_array(
    image: Image.Image,
    format: str | None = "BGR",
    name: str = "of PIL",
    white_level: float | None = None,
) -> np.ndarray:
    """Convert a PIL image to the array that read_image() returns.

    Args:
        name: the image's name in errors.
    """
    if format not in ("BGR", "RGB", "L", None):
        raise DataError(f"INPUT.FORMAT must be 'BGR', 'RGB' or 'L'; got {format!r}.")
    try:
        upright = to_8_bit(ImageOps.exif_transpose(image), white_level, name)
        image = upright.convert("L" if format == "L" else "RGB")
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error
    raw = image.tobytes("raw", format or "RGB")
    return np.frombuffer(bytearray(raw), dtype=np.uint8).reshape(image.height, image.width, -1)


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare an image's size with "height" and "width", and fill in those that are missing.

    Raises:
        SizeMismatchError: the sizes differ.
    """
    size = image.shape[:2]
    expected = (dataset_dict.get("height", size[0]), dataset_dict.get("width", size[1]))
    if size != expected:
        raise SizeMismatchError(
            f"Image {dataset_dict.get('file_name', '')} is {size[1]} x {size[0]} pixels, but its "
            f"annotation says {expected[1]} x {expected[0]}."
        )
    dataset_dict["height"], dataset_dict["width"] = size


def annotations_to_instances(
    annos: Sequence[Mapping[str, Any]], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Convert annotation dicts to Instances with gt_boxes, clipped to the image, and gt_classes.

    Args:
        image_size: (height, width) in pixels.
        mask_format: ignored; cvpods' signature has it.
    """
    boxes = [
        BoxMode.convert(list(a["bbox"]), a.get("bbox_mode", BoxMode.XYXY_ABS), BoxMode.XYXY_ABS)
        for a in annos
    ]
    gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    gt_boxes.clip(image_size)
    classes = torch.tensor([a["category_id"] for a in annos], dtype=torch.int64)
    return Instances(image_size, gt_boxes=gt_boxes, gt_classes=classes)


def filter_empty_instances(
    instances: Instances, by_box: bool = True, by_mask: bool = True
) -> Instances:
    """Remove objects whose box has no area; `by_mask` is ignored, cvpods' signature has it."""
    return instances[instances.gt_boxes.nonempty()] if by_box else instances
