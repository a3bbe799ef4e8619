"""Make a small synthetic detection data set of textured shapes, in COCO format.

Six classes of shapes (disc, square, triangle, star, ring, cross), 8 to 200 pixels long, lie on
cluttered backgrounds: rotated and stretched a little, textured, overlapping, cut off at the image
border. Lines, blobs and speckle of low contrast are distractors and carry no annotation.

    python datasets/make_shapes.py                        # 600 + 150 images in datasets/shapes
    python datasets/make_shapes.py --output /tmp/shapes --train 100 --val 20 --seed 1

The settings alone decide the result, and the seed, split and i alone decide image i:
    OUTPUT/train/000000.jpg ...   OUTPUT/annotations/instances_train.json
    OUTPUT/val/000000.jpg ...     OUTPUT/annotations/instances_val.json
"""

from __future__ import annotations

import argparse
import colorsys
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

Array = np.ndarray[Any, Any]
NAME = "Textured shapes"
VERSION = "1.0"  # raise it when the pictures change, so that older copies are made again
SPLITS = ("train", "val")
CATEGORIES = {"disc": 2, "square": 3, "triangle": 5, "star": 7, "ring": 11, "cross": 13}
TEXTURES = ("plain", "stripes", "checks", "dots", "gradient", "noise")
# A class has a hue and a texture that most of its objects show, as real objects do.
TYPICAL_HUE = {name: index / len(CATEGORIES) for index, name in enumerate(CATEGORIES)}
TYPICAL_TEXTURE = dict(zip(CATEGORIES, TEXTURES, strict=True))
HUE_SHARE, HUE_SPREAD, TEXTURE_SHARE = 0.9, 0.05, 0.75
IMAGE_SIZES = ((256, 192), (192, 256), (224, 224))  # width, height
COUNT_PERCENT = (6, 12, 16, 16, 13, 10, 8, 6, 5, 3, 2, 2, 1)  # images with 0, 1, ... 12 objects

MIN_SIZE, USUAL_SIZE, MAX_SIZE = 8, 80, 200  # long side of the box in pixels
MAX_ANGLE = math.radians(20)
MIN_VISIBLE = 0.4  # least share of a shape that is neither covered nor outside the image
TRIES = 20  # places tried for an object before it is left out
SUPERSAMPLE = 4


def _circle(corners: int, radius: float = 1.0) -> Array:
    """Return the corners of a regular polygon, first the top one; many corners make a circle."""
    angles = 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _cross(a: float) -> Array:
    upper = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]
    return np.array([*upper, *((-x, -y) for x, y in upper)])


# The first polygon of a shape is filled; the second one is a hole in it.
OUTLINES: dict[str, list[Array]] = {
    "disc": [_circle(72)],
    "square": [np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])],
    "triangle": [_circle(3)],
    "star": [_circle(10) * np.tile([(1.0,), (0.45,)], (5, 1))],
    "ring": [_circle(72), _circle(72, radius=0.55)],
    "cross": [_cross(0.34)],
}


def shape_polygons(
    name: str, size: float, center: tuple[float, float], angle: float = 0.0, stretch: float = 1.0
) -> list[Array]:
    """Return the polygons of a shape in pixels; its box has the long side `size` and `center`."""
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.diag([stretch, 1 / stretch]) @ np.array([(cos, sin), (-sin, cos)])
    polygons = [outline @ matrix for outline in OUTLINES[name]]
    low, high = polygons[0].min(axis=0), polygons[0].max(axis=0)
    scale = size / (high - low).max()
    return [(polygon - (low + high) / 2) * scale + np.array(center) for polygon in polygons]


def polygon_area(polygon: Array) -> float:
    """Return the area of a polygon in square pixels."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def render_alpha(polygons: list[Array], width: int, height: int) -> Array:
    """Return the antialiased coverage (height, width) of every pixel, in 0..1."""
    image = Image.new("L", (width * SUPERSAMPLE, height * SUPERSAMPLE))
    draw = ImageDraw.Draw(image)
    for polygon, fill in zip(polygons, (255, 0), strict=False):
        draw.polygon(np.floor(polygon * SUPERSAMPLE).ravel().tolist(), fill=fill)
    return np.asarray(image.reduce(SUPERSAMPLE), dtype=np.float32) / 255


def mask_box(mask: Array) -> list[float]:
    """Return the tight [x, y, width, height] of the true pixels; all zero if all are false."""
    left, top, right, bottom = Image.fromarray(mask.astype(np.uint8)).getbbox() or (0, 0, 0, 0)
    return [float(left), float(top), float(right - left), float(bottom - top)]


class Shape(NamedTuple):
    """An object in an image. The mask is the part inside the image, covered or not."""

    category: str
    center: tuple[float, float]
    size: float
    alpha: Array
    mask: Array
    whole_area: float  # of the full shape, including its part outside the image


def random_shape(rng: Generator, width: int, height: int) -> Shape:
    """Draw class, size, place, rotation and stretch of a shape."""
    category = str(rng.choice(list(CATEGORIES)))
    size = float(np.exp(rng.triangular(*np.log([MIN_SIZE, USUAL_SIZE, MAX_SIZE]))))
    center = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
    angle, stretch = rng.uniform(-MAX_ANGLE, MAX_ANGLE), np.exp(rng.uniform(-0.12, 0.12))
    polygons = shape_polygons(category, size, center, angle, stretch)
    whole_area = polygon_area(polygons[0]) - sum(polygon_area(hole) for hole in polygons[1:])
    alpha = render_alpha(polygons, width, height)
    return Shape(category, center, size, alpha, alpha > 0.5, whole_area)


def fits(shape: Shape, below: list[Shape]) -> bool:
    """Return True if the size of `shape` is valid and all shapes remain visible enough with it."""
    if not MIN_SIZE <= max(mask_box(shape.mask)[2:]) <= MAX_SIZE:
        return False
    covered = np.zeros_like(shape.mask)
    for each in [shape, *reversed(below)]:
        if (each.mask & ~covered).sum() < MIN_VISIBLE * each.whole_area:
            return False
        covered |= each.mask
    return True


def random_texture(category: str, u: Array, v: Array, period: float, rng: Generator) -> Array:
    """Return the share of the second colour at (u, v), in 0..1; u, v in units of the size."""
    typical = rng.random() < TEXTURE_SHARE
    name = TYPICAL_TEXTURE[category] if typical else str(rng.choice(TEXTURES))
    wave_u, wave_v = np.sin(2 * np.pi * u / period), np.sin(2 * np.pi * v / period)
    textures: dict[str, Array] = {
        "plain": np.zeros_like(u),
        "stripes": 0.5 + 2 * wave_u,
        "checks": 0.5 + 4 * wave_u * wave_v,
        "dots": 2 * (wave_u + wave_v) - 1.5,
        "gradient": 0.5 + u,
        "noise": rng.random(len(u)),
    }
    return np.clip(textures[name], 0, 1)


def paint(canvas: Array, shape: Shape, rng: Generator) -> None:
    """Draw `shape` on the canvas, in two colours that stand out from the pixels behind it."""
    behind = canvas[shape.mask].mean(axis=0)
    hsv = rng.uniform((0, 0.45, 0.3), (1, 1, 1), (4, 3))
    if rng.random() < HUE_SHARE:
        hsv[:, 0] = rng.normal(TYPICAL_HUE[shape.category], HUE_SPREAD, 4) % 1
    colors = [255 * np.array(colorsys.hsv_to_rgb(*each)) for each in hsv.tolist()]
    first = max(colors, key=lambda color: float(np.linalg.norm(color - behind)))
    away = 255.0 if first.mean() > behind.mean() else 0.0
    second = first + rng.uniform(0.35, 0.65) * (away - first)
    rows, columns = np.nonzero(shape.alpha)
    x = (columns + 0.5 - shape.center[0]) / shape.size
    y = (rows + 0.5 - shape.center[1]) / shape.size
    angle = rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    period = max(rng.uniform(0.15, 0.35), 4 / shape.size)  # at least four pixels
    color = first + random_texture(shape.category, u, v, period, rng)[:, None] * (second - first)
    canvas[rows, columns] += shape.alpha[rows, columns, None] * (color - canvas[rows, columns])


def _clutter(rng: Generator, width: int, height: int) -> Array:
    """Draw lines and small blobs of low contrast, as differences to add to the background."""
    image = Image.new("RGB", (2 * width, 2 * height), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 12)):
        ends = rng.uniform(-0.2, 1.2, (2, 2)) * image.size
        color = tuple(rng.integers(102, 155, 3).tolist())
        draw.line(ends.ravel().tolist(), fill=color, width=int(rng.integers(1, 7)))
    for _ in range(rng.integers(5, 40)):
        middle, radii = rng.uniform(0, 1, 2) * image.size, rng.uniform(1.5, 12, 2)
        color = tuple(rng.integers(102, 155, 3).tolist())
        draw.ellipse([*(middle - radii).tolist(), *(middle + radii).tolist()], fill=color)
    return np.asarray(image.reduce(2), dtype=np.float32) - 128


def background(rng: Generator, width: int, height: int) -> Array:
    """Draw a muted colour gradient with cloudy noise, clutter and speckle."""
    y, x = np.indices((height, width), dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (x / width - 0.5) * math.cos(angle) + (y / height - 0.5) * math.sin(angle)
    middle = (rng.uniform(50, 205) + rng.uniform(-25, 25, 3)).astype(np.float32)
    canvas = middle + slope[..., None] * rng.uniform(-60, 60, 3).astype(np.float32)
    clouds = Image.fromarray(rng.normal(0, 10, [rng.integers(3, 16)] * 2).astype(np.float32))
    canvas += np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    canvas += _clutter(rng, width, height)
    speckle = rng.standard_normal((height, width, 1), dtype=np.float32)
    canvas += np.float32(rng.uniform(1, 8)) * speckle
    return np.clip(canvas, 0, 255)


def draw_scene(rng: Generator) -> tuple[Image.Image, list[Shape]]:
    """Draw one image; return it with its objects, from the lowest to the topmost."""
    width, height = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    canvas = background(rng, width, height)
    shapes: list[Shape] = []
    for _ in range(rng.choice(len(COUNT_PERCENT), p=np.array(COUNT_PERCENT) / 100)):
        candidates = (random_shape(rng, width, height) for _ in range(TRIES))
        shape = next((each for each in candidates if fits(each, shapes)), None)
        if shape is not None:
            paint(canvas, shape, rng)
            shapes.append(shape)
    return Image.fromarray(np.clip(canvas.round(), 0, 255).astype(np.uint8)), shapes


def annotation_path(output: Path, split: str) -> Path:
    return output / "annotations" / f"instances_{split}.json"


def make_info(settings: dict[str, int]) -> dict[str, Any]:
    """Return the json's info: the name of the data set, its version and its settings."""
    return {"description": NAME, "version": VERSION, "settings": settings}


def make_split(output: Path, split: str, count: int, info: dict[str, Any]) -> dict[str, Any]:
    """Write the images of one split and return its content in COCO format."""
    folder = output / split
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng([info["settings"]["seed"], SPLITS.index(split), index])
        image, shapes = draw_scene(rng)
        name = f"{index:06d}.jpg"
        image.save(folder / name, quality=90)
        width, height = image.size
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for shape in shapes:
            annotation: dict[str, Any] = {"id": len(annotations) + 1, "image_id": index + 1}
            annotation |= {"category_id": CATEGORIES[shape.category], "bbox": mask_box(shape.mask)}
            annotations.append(annotation | {"area": float(shape.mask.sum()), "iscrowd": 0})
    categories = [{"id": i, "name": n, "supercategory": "shape"} for n, i in CATEGORIES.items()]
    content = {"info": info, "licenses": [], "images": images, "annotations": annotations}
    return content | {"categories": categories}


def make_shapes(output: Path, *, train: int = 600, val: int = 150, seed: int = 0) -> None:
    """Make the data set in the folder `output`; replace an earlier one."""
    settings = {"train": train, "val": val, "seed": seed}
    for name, value in settings.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative; got {value}")
    for split in SPLITS:  # first, so that an interrupted run does not look complete
        annotation_path(output, split).unlink(missing_ok=True)
    info = make_info(settings)
    contents = {split: make_split(output, split, settings[split], info) for split in SPLITS}
    for split, content in contents.items():
        path = annotation_path(output, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, path)


def read_info(path: Path) -> Any:
    """Return the info of an annotation file, or None if it is missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["info"]
    except (ValueError, KeyError, TypeError):
        return None


def run(options: argparse.Namespace) -> None:
    """Make the data set unless it exists; overwrite another one only with --force."""
    settings = {"train": options.train, "val": options.val, "seed": options.seed}
    paths = [annotation_path(options.output, split) for split in SPLITS]
    infos = [read_info(path) for path in paths if path.exists()]
    if not options.force and infos == [make_info(settings)] * len(SPLITS):
        print(f"{options.output} was already made with these settings; --force makes it again")
        return
    ours = all(isinstance(info, dict) and info.get("description") == NAME for info in infos)
    if not options.force and not ours:
        raise ValueError(f"{options.output} holds other annotations; --force overwrites them")
    make_shapes(options.output, **settings)
    print(f"wrote {options.train} train and {options.val} val images to {options.output}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    default = Path(__file__).resolve().parent / "shapes"
    parser.add_argument("--output", type=Path, default=default, help="folder (%(default)s)")
    parser.add_argument("--train", type=int, default=600, help="training images (%(default)s)")
    parser.add_argument("--val", type=int, default=150, help="validation images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed (%(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite what the folder holds")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
