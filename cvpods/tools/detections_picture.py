"""Picture of an evaluation's detections beside the ground truth."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from cvpods.configs import BaseConfig
from cvpods.data import build_dataset
from cvpods.data.detection_utils import read_image, reading_options
from cvpods.structures import BoxMode
from cvpods.tools.results import choose_results
from cvpods.utils.coco_values import read_box
from cvpods.utils.errors import DataError
from cvpods.utils.files import read_text
from cvpods.utils.visualize import add_caption, draw_boxes, tile


def draw(args: argparse.Namespace, config: BaseConfig) -> Path:
    """Write the picture and return its path.

    It has two pairs of (ground truth, detections) in a row, and a caption that names the source of
    the detections.

    Raises:
        DataError: the results are missing or cannot be read.
    """
    dataset = build_dataset(config, config.DATASETS.TEST[:1], is_train=False)
    name = config.DATASETS.TEST[0]
    results = choose_results(config, name, args.results)
    classes = dataset.meta.thing_dataset_id_to_contiguous_id
    found = _by_image(results.path, args.score, classes)
    samples = dataset.datasets[0].dataset_dicts
    step = max(len(samples) // args.count, 1)
    reading = {**reading_options(config), "white_level": dataset.white_level}
    pairs = [
        _pair(sample, found[sample["image_id"]], dataset.meta, reading)
        for sample in samples[::step][: args.count]
    ]
    rows = [sum(pairs[i : i + 2], []) for i in range(0, len(pairs), 2)]
    output = Path(args.output or results.path.with_name("detections.png"))
    output.parent.mkdir(parents=True, exist_ok=True)
    shown = f"Left: ground truth; right: detections of score >= {args.score}."
    add_caption(tile(rows), [shown, *results.caption(name)]).save(output)
    logger.info(f"{shown} Wrote {output}")
    return output


def _by_image(path: Path, least_score: float, classes: Mapping[Any, int]) -> dict[Any, list[dict]]:
    """Return the detections of each image; the best come last, so that their labels lie on top.

    Args:
        classes: {category id: class} of the data set; a detection gets its class as "label".

    Raises:
        DataError: the file holds no detections, or they are of other classes.
    """
    found: dict[Any, list[dict]] = defaultdict(list)
    try:
        for detection in sorted(json.loads(read_text(path)), key=lambda d: d["score"]):
            if detection["score"] >= least_score:
                label = classes[detection["category_id"]]
                box = read_box(detection["bbox"])
                found[detection["image_id"]].append({**detection, "bbox": box, "label": label})
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as detections in COCO's result format: {error!r}."
        ) from error
    return found


def _pair(
    sample: dict[str, Any], detections: list[dict], meta: Any, reading: dict[str, Any]
) -> list[Tensor]:
    """Return two pictures (3, H, W) of a sample: its ground truth, its detections."""
    image = torch.from_numpy(read_image(sample["file_name"], "RGB", **reading)).permute(2, 0, 1)
    truth = sample["annotations"]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in truth]
    classes = [a["category_id"] for a in truth]
    found = [BoxMode.convert(d["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for d in detections]
    labels = [d["label"] for d in detections]
    scores = [d["score"] for d in detections]
    names = meta.thing_classes
    return [
        draw_boxes(image, torch.tensor(boxes).reshape(-1, 4), classes, names),
        draw_boxes(image, torch.tensor(found).reshape(-1, 4), labels, names, scores),
    ]
