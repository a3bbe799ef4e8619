"""pods_check: examine data sets before training."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.checkpoint.atomic import write_file
from cvpods.data.build import largest_training_image
from cvpods.data.coco_records import AMBIGUOUS
from cvpods.data.conventions import BOX_FORMATS
from cvpods.data.dataset_check import Resizing, check_coco
from cvpods.data.datasets import paths
from cvpods.data.datasets.base_dataset import resolve_images
from cvpods.data.datasets.coco import read_json
from cvpods.data.findings import Report
from cvpods.data.registry import DATASETS
from cvpods.tools.common import load_config, make_parser, reporting_errors
from cvpods.utils.coco_values import read_area
from cvpods.utils.errors import DataError

# Image files that the check at the start of a training opens, of each data set.
_SAMPLE = 64


def _method_groups(config: Any) -> list[dict[str, Any]]:
    """Return the config's groups of method keys, MODEL.ATSS for example."""
    return [
        g
        for k, g in config.MODEL.items()
        if isinstance(g, dict) and "NUM_CLASSES" in g and k != "RESNETS"
    ]


def num_classes_of(config: Any) -> int | None:
    """Return the method's NUM_CLASSES; None if the config has none, or several that differ."""
    groups = _method_groups(config)
    values = {g["NUM_CLASSES"] for g in groups if isinstance(g.get("NUM_CLASSES"), int)}
    return values.pop() if len(values) == 1 else None


def resizing_of(config: Any) -> Resizing | None:
    """Return how training resizes images at most; None if the config does not say."""
    size = largest_training_image(config)
    levels = [g["IN_FEATURES"][0] for g in _method_groups(config) if g.get("IN_FEATURES")]
    if size is None or len(levels) != 1 or not re.fullmatch(r"p\d", str(levels[0])):
        return None
    return Resizing(*size, stride=2 ** int(levels[0][1:]))


def check_named(
    config: Any, name: str, files: int | None = None, box_format: str = "xywh"
) -> tuple[Report, dict[str, Any]]:
    """Examine a registered data set.

    Files that training replaces (see DATALOADER.MAX_CORRUPT_SHARE) are warnings, unless the data
    set is evaluated too.

    Args:
        files: how many of its image files, drawn at random, are opened; None: all.
        box_format: see check_coco().

    Returns:
        The report and the mended content.

    Raises:
        DataError: it is not known, or its files are not found or are not json.
    """
    kind = DATASETS.get(paths.find_route(name)["dataset_type"])
    image_root, source = resolve_images(name)
    if isinstance(source, str) and source.endswith(".json"):
        json_file = paths.resolve(source, f"The annotation file of {name!r}")
        content, images = read_json(json_file), image_root
    else:  # another format: as its class reads it
        content = kind(config, name, is_train=False).coco_ground_truth() or {}
        images = Path()
    trained = name in config.DATASETS.TRAIN
    report, mended = check_coco(
        name,
        content,
        images,
        num_classes=num_classes_of(config),
        files=files,
        box_format=box_format,
        resizing=resizing_of(config) if trained else None,
        max_pixels=config.INPUT.get("MAX_PIXELS"),
    )
    if trained and name not in config.DATASETS.TEST:
        report.tolerate_files(config.DATALOADER.MAX_CORRUPT_SHARE)
    if not trained:
        report.lenient.add("no box at all")
        report.found.pop("class without boxes", None)  # its AP is not defined, and that is all
    return report, mended


def check_before_training(config: Any) -> None:
    """Check all annotations and some of the image files; warnings go to the log.

    Raises:
        DataError: there are errors, in the words of pods_check.
    """
    evaluated = config.DATASETS.TEST if config.TEST.EVAL_PERIOD >= 0 else ()
    for name in dict.fromkeys([*config.DATASETS.TRAIN, *evaluated]):
        report, _ = check_named(config, name, files=_SAMPLE)
        if report.count("error") or report.count("warning"):
            logger.warning(f"Data check (pods_check reads every image):\n{report}")
        if report.count("error"):
            raise DataError(f"The data check refuses {name!r}: {report.errors()}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_check; exit status 1 where there are errors."""
    parser = make_parser("Examine data sets: images, boxes, classes.", launches=False)
    parser.add_argument(
        "--dataset", nargs="+", metavar="NAME", help="registered names (default: TRAIN and TEST)"
    )
    parser.add_argument("--json", metavar="FILE", help="a COCO file instead, without experiment")
    parser.add_argument("--images", metavar="FOLDER", default=".", help="images of --json")
    parser.add_argument("--num-classes", type=int, metavar="K", help="what --json should have")
    parser.add_argument(
        "--boxes",
        choices=BOX_FORMATS,
        default="xywh",
        help="how the file writes boxes; --fix converts them to COCO's x, y, width, height",
    )
    parser.add_argument("--quick", action="store_true", help=f"open {_SAMPLE} image files only")
    parser.add_argument("--fix", metavar="OUT.json", help="write the annotations, mended")
    args = parser.parse_intermixed_args(argv)
    with reporting_errors():
        reports = _examine(args)
    if any(report.count("error") for report in reports):
        sys.exit(1)


def _examine(args: argparse.Namespace) -> list[Report]:
    # None: every file. The look at a file costs time, and --fix leaves out what it cannot read.
    files = _SAMPLE if args.quick else None
    names = args.dataset
    if args.fix is not None and args.json is None and len(names or ()) != 1:
        raise DataError("--fix writes one data set: name it with --dataset NAME.")
    checked: list[tuple[Report, dict[str, Any]]] = []
    sources: list[Path] = []
    if args.json is not None:
        path = Path(args.json)
        if not Path(args.images).is_dir():
            raise DataError(f"--images {args.images} is not a folder.")
        content = read_json(path)
        checked.append(
            check_coco(
                path.name,
                content,
                args.images,
                num_classes=args.num_classes,
                files=files,
                box_format=args.boxes,
            )
        )
        if isinstance(content, dict) and "annotations" not in content:  # test images
            checked[0][0].lenient.add("no box at all")
        sources.append(path)
    else:
        config, _ = load_config(args)
        names = names or dict.fromkeys([*config.DATASETS.TRAIN, *config.DATASETS.TEST])
        for name in names:
            checked.append(check_named(config, name, files, args.boxes))
            source = str(resolve_images(name)[1])
            if source.endswith(".json"):
                sources.append(paths.resolve(source, f"The annotation file of {name!r}"))
    for report, _ in checked:
        print(f"{report}\n")
    if args.fix is not None:
        _write_fixed(Path(args.fix), checked, sources)
    return [report for report, _ in checked]


def _write_fixed(
    out: Path, checked: Sequence[tuple[Report, dict[str, Any]]], sources: Sequence[Path]
) -> None:
    if any(source.exists() and out.exists() and source.samefile(out) for source in sources):
        raise DataError(f"--fix {out} is the file that is examined; name another one.")
    report, mended = checked[0]
    for section in ("images", "categories", "annotations"):
        if section in mended and not mended[section]:
            raise DataError(f"--fix {out}: no {section} would be left; nothing is written.")
    if any(category.get(AMBIGUOUS) for category in mended["categories"]):
        raise DataError(
            f"--fix {out}: two classes of {report.name} have one id, and nobody can say which of "
            "them a box has; nothing is written."
        )
    for annotation in mended.get("annotations", ()):  # pycocotools fails without these
        annotation.setdefault("area", read_area(None, annotation["bbox"]))
        annotation.setdefault("iscrowd", 0)
    write_file(out, _as_json(mended).encode())
    lines = [
        f"Wrote {out}: {len(mended['images']):,} images, {len(mended.get('annotations', ())):,} "
        "boxes. "
        f"{report.name} is unchanged.",
        *report.fixed(),
    ]
    print("\n".join(lines))


def _as_json(content: Any) -> str:
    """Return json text; NaN and infinity, which json does not have, become null."""
    try:
        return json.dumps(content, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(content))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
