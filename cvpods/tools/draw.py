"""pods_draw: the last evaluation's detections beside the ground truth, in one picture."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from cvpods.data import build_dataset
from cvpods.data.detection_utils import read_image, reading_options
from cvpods.structures import BoxMode
from cvpods.tools.common import load_config, make_parser, reporting_errors
from cvpods.tools.results import choose_results
from cvpods.utils.coco_values import read_box
from cvpods.utils.errors import DataError
from cvpods.utils.files import read_text
from cvpods.utils.visualize import add_caption, draw_boxes, tile


def draw(args: argparse.Namespace) -> Path:
    """Write the picture: pairs of (ground truth, detections), two pairs to a row.

    Below it stands where the detections come from.
    """
    config, _ = load_config(args)
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
        DataError: the file holds no detections, or those of other classes.
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


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_draw."""
    parser = make_parser(
        "Draw the last evaluation's detections beside the ground truth.", launches=False
    )
    parser.add_argument("--output", help="picture (detections.png beside the results)")
    parser.add_argument(
        "--results", help="coco_instances_results.json to draw (the last evaluation's)"
    )
    parser.add_argument("--count", type=int, default=8, help="images (%(default)s)")
    parser.add_argument("--score", type=float, default=0.4, help="least score (%(default)s)")
    args = parser.parse_intermixed_args(argv)
    with reporting_errors():
        draw(args)


if __name__ == "__main__":
    main()
