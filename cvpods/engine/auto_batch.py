"""The number of images at once that --auto-batch found, kept in OUTPUT_DIR for resumed runs."""

from __future__ import annotations

import json
from pathlib import Path

from loguru import logger

from cvpods.checkpoint.atomic import write_atomically

FILE_NAME = "auto_batch.json"


def read_images_at_once(output: str | Path) -> int | None:
    """Return the number of images at once that OUTPUT_DIR holds, None without a valid number."""
    try:
        value = json.loads((Path(output) / FILE_NAME).read_text(encoding="utf-8"))
        images = value["images_at_once"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return images if isinstance(images, int) and images >= 1 else None


def halve_images_at_once(output: str | Path, images: int) -> int:
    """Halve the number of images at once, write the result to OUTPUT_DIR and return it."""
    halved = max(images // 2, 1)
    content = json.dumps({"images_at_once": halved}).encode()
    write_atomically(Path(output) / FILE_NAME, lambda file: file.write(content))
    logger.warning(
        f"Out of memory with {images} images at once: continuing with {halved} (--auto-batch)."
    )
    return halved
