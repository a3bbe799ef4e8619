"""Boxes drawn on images, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF  # noqa: N812 - torchvision's own alias
from torchvision.utils import draw_bounding_boxes

# Okabe and Ito's palette, without black.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def class_color(label: int) -> str:
    """The colour of a class; it repeats after seven."""
    return PALETTE[label % len(PALETTE)]


def draw_boxes(
    image: Tensor,
    boxes: Tensor,
    labels: Sequence[int],
    class_names: Sequence[str],
    scores: Sequence[float] | None = None,
    min_size: int = 400,
) -> Tensor:
    """Draw boxes with class names, and scores where given.

    Args:
        image: (3, H, W) uint8 RGB.
        boxes: (M, 4) xyxy, pixels; labels: M classes.
        min_size: small images are enlarged to this short side, so that names can be read.

    Returns:
        (3, H', W') uint8 RGB.
    """
    height, width = image.shape[1:]
    scale = max(min_size / min(height, width), 1.0)
    image = TF.resize(image, [round(height * scale), round(width * scale)])
    if len(boxes) == 0:
        return image
    texts = [class_names[label] for label in labels]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores, strict=True)]
    return draw_bounding_boxes(
        image,
        boxes * scale,
        labels=texts,
        colors=[class_color(label) for label in labels],
        width=2,
    )


def tile(rows: Sequence[Sequence[Tensor]], gap: int = 8) -> Image.Image:
    """Images (3, H, W) in rows on a white canvas."""
    height = sum(max(image.shape[1] for image in row) + gap for row in rows) + gap
    width = max(sum(image.shape[2] + gap for image in row) for row in rows) + gap
    canvas = torch.full((3, height, width), 255, dtype=torch.uint8)
    y = gap
    for row in rows:
        x = gap
        for image in row:
            canvas[:, y : y + image.shape[1], x : x + image.shape[2]] = image
            x += image.shape[2] + gap
        y += max(image.shape[1] for image in row) + gap
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())
