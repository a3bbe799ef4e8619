"""Drawings of boxes on images, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Okabe and Ito's palette, without black.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")

# Largest long side of enlarged images, in pixels.
MAX_ENLARGED = 2000

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def class_color(label: int) -> str:
    """Return the colour of a class. Colours repeat after seven classes."""
    return PALETTE[label % len(PALETTE)]


def text_color(background: str) -> str:
    """Return "black" or "white", whichever has the higher contrast (WCAG 2) on "#RRGGBB"."""
    values = (int(background[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def draw_boxes(
    image: Tensor,
    boxes: Tensor,
    labels: Sequence[int],
    class_names: Sequence[str],
    scores: Sequence[float] | None = None,
    min_size: int = 400,
) -> Tensor:
    """Draw boxes with class names, and with scores if given.

    Args:
        image: (3, H, W) uint8 RGB.
        boxes: (M, 4) xyxy, in pixels.
        labels: M classes.
        min_size: short side to which a small image is enlarged, so that names can be read. The long
            side is at most MAX_ENLARGED.

    Returns:
        (3, H', W') uint8 RGB.
    """
    height, width = image.shape[1:]
    scale = max(min(min_size / min(height, width), MAX_ENLARGED / max(height, width)), 1.0)
    size = round(width * scale), round(height * scale)
    canvas = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).resize(size)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(max(13, round(min(size) / 40)))
    line = max(2, round(min(size) / 300))
    for i, (box, label) in enumerate(zip((boxes * scale).tolist(), labels, strict=True)):
        text = class_names[label] + (f" {scores[i]:.2f}" if scores is not None else "")
        # Draw a white edge around the colour, so that the box is visible on dark areas.
        left, top, right, bottom = box
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="white", width=line + 2)
        draw.rectangle(box, outline=class_color(label), width=line)
        _write_label(draw, text, box, class_color(label), font, size)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


def _write_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: Sequence[float],
    color: str,
    font: _Font,
    size: tuple[int, int],
) -> None:
    """Write a label on the class's colour: above the box if it fits there, otherwise inside."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 4
    x = min(max(box[0], 0), size[0] - width)
    y = box[1] - height if box[1] >= height else box[1]
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + 3 - left, y + 2 - top), text, fill=text_color(color), font=font)


def tile(rows: Sequence[Sequence[Tensor]], gap: int = 8) -> Image.Image:
    """Return a picture of images (3, H, W) in rows on a white canvas."""
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


def add_caption(picture: Image.Image, lines: Sequence[str], size: int = 14) -> Image.Image:
    """Return the picture with lines of text below it. Lines that are too wide are broken."""
    font = ImageFont.load_default(size)
    room = picture.width - 2 * size
    text = [part for line in lines for part in _break_line(line, font, room)]
    height = round(1.4 * size)
    canvas = Image.new("RGB", (picture.width, picture.height + height * len(text) + size), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(text):
        draw.text((size, picture.height + i * height), line, fill="black", font=font)
    return canvas


def _break_line(line: str, font: _Font, room: float) -> list[str]:
    """Return a line in parts of at most `room` pixels, broken at any letter."""
    parts = [""]
    for letter in line:
        if font.getlength(parts[-1] + letter) > room and parts[-1]:
            parts.append("")
        parts[-1] += letter
    return parts
