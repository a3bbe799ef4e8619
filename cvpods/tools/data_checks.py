"""Checks of an experiment's data sets, and of files in COCO's format, before training."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.checkpoint.atomic import write_file
from cvpods.configs import BaseConfig
from cvpods.data.build import largest_training_image
from cvpods.data.coco_records import AMBIGUOUS
from cvpods.data.dataset_check import Resizing, check_coco
from cvpods.data.datasets import paths
from cvpods.data.datasets.base_dataset import resolve_images
from cvpods.data.datasets.coco import read_json
from cvpods.data.findings import Report
from cvpods.data.registry import DATASETS
from cvpods.tools.check import SAMPLE
from cvpods.utils.coco_values import read_area
from cvpods.utils.errors import DataError


def _method_groups(config: BaseConfig) -> list[dict[str, Any]]:
    """Return the config's groups of method keys, for example MODEL.ATSS."""
    return [
        g
        for k, g in config.MODEL.items()
        if isinstance(g, dict) and "NUM_CLASSES" in g and k != "RESNETS"
    ]


def num_classes_of(config: BaseConfig) -> int | None:
    """Return the method's NUM_CLASSES; None if the config has none, or different ones."""
    groups = _method_groups(config)
    values = {g["NUM_CLASSES"] for g in groups if isinstance(g.get("NUM_CLASSES"), int)}
    return values.pop() if len(values) == 1 else None


def resizing_of(config: BaseConfig) -> Resizing | None:
    """Return the largest size that training resizes images to; None if it is unknown."""
    size = largest_training_image(config)
    levels = [g["IN_FEATURES"][0] for g in _method_groups(config) if g.get("IN_FEATURES")]
    if size is None or len(levels) != 1 or not re.fullmatch(r"p\d", str(levels[0])):
        return None
    return Resizing(*size, stride=2 ** int(levels[0][1:]))


def check_named(
    config: BaseConfig, name: str, files: int | None = None, box_format: str = "xywh"
) -> tuple[Report, dict[str, Any]]:
    """Examine a registered data set.

    Files that training replaces (see DATALOADER.MAX_CORRUPT_SHARE) are warnings, unless the data
    set is evaluated too.

    Args:
        files: number of image files, drawn at random, that are opened; None opens all.
        box_format: see check_coco().

    Returns:
        The report and the corrected content.

    Raises:
        DataError: the data set is unknown, or its files are missing or are not JSON.
    """
    kind = DATASETS.get(paths.find_route(name)["dataset_type"])
    image_root, source = resolve_images(name)
    if isinstance(source, str) and source.endswith(".json"):
        json_file = paths.resolve(source, f"The annotation file of {name!r}")
        content, images = read_json(json_file), image_root
    else:  # another format, which its class converts
        content = kind(config, name, is_train=False).coco_ground_truth() or {}
        images = Path()
    trained = name in config.DATASETS.TRAIN
    report, repaired = check_coco(
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
        report.found.pop("class without boxes", None)  # only leaves its AP undefined
    return report, repaired


def check_before_training(config: BaseConfig) -> None:
    """Check all annotations and some of the image files; warnings go to the log.

    Raises:
        DataError: there are errors; the message is that of pods_check.
    """
    evaluated = config.DATASETS.TEST if config.TEST.EVAL_PERIOD >= 0 else ()
    for name in dict.fromkeys([*config.DATASETS.TRAIN, *evaluated]):
        report, _ = check_named(config, name, files=SAMPLE)
        if report.count("error") or report.count("warning"):
            logger.warning(f"Data check (pods_check reads every image):\n{report}")
        if report.count("error"):
            raise DataError(f"The data check refuses {name!r}: {report.errors()}")


def examine(args: argparse.Namespace, config: BaseConfig | None, files: int | None) -> list[Report]:
    """Examine and print what the flags of pods_check name; write --fix.

    Args:
        config: the experiment's; None with --json.
        files: see check_named().

    Raises:
        DataError: a file cannot be used, or --fix cannot be written.
    """
    names = args.dataset
    if args.fix is not None and config is not None and len(names or ()) != 1:
        raise DataError("--fix writes one data set; name it with --dataset NAME.")
    checked: list[tuple[Report, dict[str, Any]]] = []
    sources: list[Path] = []
    if config is None:
        checked.append(_check_file(args, files))
        sources.append(Path(args.json))
    else:
        for name in names or dict.fromkeys([*config.DATASETS.TRAIN, *config.DATASETS.TEST]):
            checked.append(check_named(config, name, files, args.boxes))
            source = str(resolve_images(name)[1])
            if source.endswith(".json"):
                sources.append(paths.resolve(source, f"The annotation file of {name!r}"))
    for report, _ in checked:
        print(f"{report}\n")
    if args.fix is not None:
        _write_fixed(Path(args.fix), checked, sources)
    return [report for report, _ in checked]


def _check_file(args: argparse.Namespace, files: int | None) -> tuple[Report, dict[str, Any]]:
    """Examine the file --json, with the images in --images."""
    if not Path(args.images).is_dir():
        raise DataError(f"--images {args.images} is not a folder.")
    path = Path(args.json)
    content = read_json(path)
    report, repaired = check_coco(
        path.name,
        content,
        args.images,
        num_classes=args.num_classes,
        files=files,
        box_format=args.boxes,
    )
    if isinstance(content, dict) and "annotations" not in content:  # test images
        report.lenient.add("no box at all")
    return report, repaired


def _write_fixed(
    out: Path, checked: Sequence[tuple[Report, dict[str, Any]]], sources: Sequence[Path]
) -> None:
    """Write the corrected annotations of the data set that was checked to `out`.

    Raises:
        DataError: `out` is one of `sources`, or nothing useful would be left.
    """
    if any(source.exists() and out.exists() and source.samefile(out) for source in sources):
        raise DataError(f"--fix {out} is the file that is examined; name another one.")
    report, repaired = checked[0]
    for section in ("images", "categories", "annotations"):
        if section in repaired and not repaired[section]:
            raise DataError(f"--fix {out}: no {section} would be left; nothing is written.")
    if any(category.get(AMBIGUOUS) for category in repaired["categories"]):
        raise DataError(
            f"--fix {out}: two classes of {report.name} have the same id, so the class of a box is "
            "unknown; nothing is written."
        )
    for annotation in repaired.get("annotations", ()):  # pycocotools fails without these
        annotation.setdefault("area", read_area(None, annotation["bbox"]))
        annotation.setdefault("iscrowd", 0)
    write_file(out, _as_json(repaired).encode())
    lines = [
        f"Wrote {out}: {len(repaired['images']):,} images, "
        f"{len(repaired.get('annotations', ())):,} boxes. "
        f"{report.name} is unchanged.",
        *report.fixed(),
    ]
    print("\n".join(lines))


def _as_json(content: Any) -> str:
    """Return JSON text; NaN and infinity, which JSON lacks, become null."""
    try:
        return json.dumps(content, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(content))


def _without_nan(value: Any) -> Any:
    """Return a JSON value with None in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
