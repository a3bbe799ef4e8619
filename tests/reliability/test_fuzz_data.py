"""Damaged annotation files and images: each is used, or refused with a clear error, at once.

How many were tried is printed. CVPODS_FUZZ=full tries as many as docs/reliability.md reports; by
default it is a sample.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import random
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from cvpods.configs import BaseConfig
from cvpods.data import register_coco_instances
from cvpods.data.dataset_check import check_coco
from cvpods.data.datasets import COCODataset
from cvpods.data.detection_utils import annotations_to_instances, read_image
from cvpods.evaluation import evaluate_boxes
from cvpods.utils.errors import DataError

FULL = os.environ.get("CVPODS_FUZZ") == "full"
ANNOTATION_FILES = 100_000 if FULL else 1_500
IMAGES = 10_000 if FULL else 1_000

CONTENT = {
    "info": {"year": 2026},
    "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2, 3)],
    "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 2, 30, 20], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 9, "bbox": [5.5, 6, 7, 8], "area": 56},
        {"id": 3, "image_id": 2, "category_id": 9, "bbox": [0, 0, 60, 40], "iscrowd": 1},
    ],
}
VALUES = [
    None, True, -1, 0, 1, 10**9, 10**400, -0.0, 0.5, math.nan, math.inf, -math.inf, 1e308, "", "x",
    "1", "\0", "../..", [], [1], [1, 2, 3], [1, 2, 3, "4"], [[1, 2, 3, 4]], [1, 2, 3, 4, 5], {},
    {"id": 1}, [None] * 4, [math.nan] * 4, [1, 1, -5, 3], 5.0, 9.0, "5", "9", False, "0", 2**53 + 1,
    2**63 + 7, "\ud800", ["1", "2", "3", "4"],
]  # fmt: skip


def places(node, path=()):
    """Paths of all values inside a json document."""
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


PLACES = list(places(CONTENT))


def mutated(rng: random.Random) -> str:
    """Return the document with up to three values replaced, removed or doubled, or damaged text."""
    content = copy.deepcopy(CONTENT)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *parents, last = rng.choice(PLACES)
        node = content
        try:
            for key in parents:
                node = node[key]
            action = rng.random()
            if action < 0.6:
                node[last] = copy.deepcopy(rng.choice(VALUES))
            elif action < 0.8:
                del node[last]
            elif isinstance(node, list):
                node.append(copy.deepcopy(node[last]))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has taken the place away
    text = json.dumps(content)
    if rng.random() < 0.1:
        position = rng.randrange(len(text))
        text = (
            text[:position]
            + rng.choice(("", "}", "[" * 2000, "\x7f", "é", '"'))
            + text[position + 1 :]
        )
    return text


# What --fix cannot do anything about.
LEFT = {
    "duplicate category name",
    "class without boxes",
    "image without boxes",
    "crowd box",
    "no box at all",
    "one file under two ids",
    "boxes in another format",
    "no image at all",
}


def look_at(content: str, path, name: str, cfg) -> str:
    """Read a document as training, evaluation and the check do: all three agree."""
    path.write_text(content)
    try:
        dataset = COCODataset(cfg, name, is_train=True)
        for record in dataset.dataset_dicts:
            size = record["height"], record["width"]
            annotations_to_instances(record["annotations"], size)
        outcome = "used"
    except DataError:
        outcome = "refused"
    if outcome == "used" and (truth := dataset.coco_ground_truth()) is not None:
        evaluate_perfect_detections(truth)
    try:
        report, repaired = check_coco("x", json.loads(content), ".", files=0)
    except (ValueError, RecursionError):  # not json, or a number that Python takes for too long
        assert outcome == "refused"
        return outcome
    str(report)
    assert (outcome == "refused") == (report.count("error") > 0), report
    if not all(repaired.get(section) for section in ("images", "categories", "annotations")):
        return outcome  # --fix refuses to write such a file
    again, _ = check_coco("x", repaired, ".", files=0)
    assert {kind for kind in again.found if again.found[kind]} <= LEFT, again
    return outcome


def evaluate_perfect_detections(truth) -> None:
    """AP is 100 for each class that has objects, and as pycocotools has it over all sizes."""
    objects = [a for a in truth["annotations"] if not a.get("iscrowd")]
    keys = ("image_id", "category_id", "bbox")
    detections = [{**{k: a[k] for k in keys}, "score": 0.5} for a in objects]
    metrics, per_class, _ = evaluate_boxes(truth, detections)
    found = {a["category_id"] for a in objects}
    assert sorted(ap for ap in per_class.values() if ap == ap) == pytest.approx(
        [100.0] * len(found)
    )
    assert math.isnan(metrics["AP"]) if not found else metrics["AP"] == pytest.approx(100)


@pytest.mark.slow
def test_mutated_annotation_files(tmp_path, capsys):
    rng = random.Random(0)
    cfg = BaseConfig()
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    path = tmp_path / "a.json"
    register_coco_instances("fuzzed", path, tmp_path)
    counts: Counter[str] = Counter()
    slowest = 0.0
    for index in range(ANNOTATION_FILES):
        content = mutated(rng)
        begun = time.perf_counter()
        try:
            counts[look_at(content, path, "fuzzed", cfg)] += 1
        except Exception as error:
            raise AssertionError(f"file {index}: {content[:2000]}") from error
        slowest = max(slowest, time.perf_counter() - begun)
    assert min(counts["used"], counts["refused"]) > ANNOTATION_FILES / 20
    with capsys.disabled():
        print(f"\n{ANNOTATION_FILES:,} annotation files: {dict(counts)}, slowest {slowest:.2f} s")


def originals() -> list[bytes]:
    """Small images in the formats and modes that data sets have."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    rgb = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    wanted = [
        (rgb, "JPEG", {}), (rgb, "JPEG", {"progressive": True, "exif": exif}), (rgb, "PNG", {}),
        (rgb.convert("CMYK"), "JPEG", {}), (rgb.convert("P"), "PNG", {}), (deep, "PNG", {}),
        (rgb.convert("LA"), "PNG", {}), (rgb, "BMP", {}), (rgb, "GIF", {}), (deep, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}), (rgb, "WEBP", {}), (rgb, "PPM", {}),
    ]  # fmt: skip
    files = []
    for image, kind, options in wanted:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


def damaged(rng: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    action = rng.random()
    if action < 0.3:
        return bytes(data[: rng.randrange(len(data))])
    # The head, which has sizes and tables, more often than the rest.
    limit = len(data) if action < 0.6 else min(len(data), 120)
    for _ in range(rng.choice((1, 2, 8, 40))):
        data[rng.randrange(limit)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mutated_images(tmp_path, capsys):
    rng, files = random.Random(1), originals()
    path = tmp_path / "image"
    counts: Counter[str] = Counter()
    slowest = 0.0
    for index in range(IMAGES):
        path.write_bytes(damaged(rng, files[index % len(files)]))
        begun = time.perf_counter()
        try:
            image = read_image(path)
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            counts["read"] += 1
        except DataError as error:
            assert str(path) in str(error)
            counts["refused"] += 1
        slowest = max(slowest, time.perf_counter() - begun)
    assert min(counts.values()) > IMAGES / 20
    with capsys.disabled():
        print(f"\n{IMAGES:,} images: {dict(counts)}, slowest {slowest:.2f} s")
