"""pods_check: examine data sets before training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.checkpoint.atomic import write_file
from cvpods.data.check import Report, check_coco
from cvpods.data.datasets import paths
from cvpods.data.datasets.base_dataset import resolve_images
from cvpods.data.datasets.coco import read_json
from cvpods.data.registry import DATASETS
from cvpods.tools.common import load_config, make_parser, reporting_errors
from cvpods.utils.errors import DataError

# Image files that the check at the start of a training opens, of each data set.
_SAMPLE = 64


def num_classes_of(config: Any) -> int | None:
    """NUM_CLASSES of the method's group; None where the config has no such group, or several."""
    groups = [g for g in config.MODEL.values() if isinstance(g, dict) and "IN_FEATURES" in g]
    values = {g["NUM_CLASSES"] for g in groups if isinstance(g.get("NUM_CLASSES"), int)}
    return values.pop() if len(values) == 1 else None


def check_named(config: Any, name: str, files: int | None = None) -> tuple[Report, dict[str, Any]]:
    """Examine a registered data set.

    Args:
        files: how many of its image files, drawn at random, are opened; None: all.

    Returns:
        The report and the mended content.

    Raises:
        DataError: it is not known, or its files are not found or no json.
    """
    kind = DATASETS.get(paths.find_route(name)["dataset_type"])
    image_root, source = resolve_images(name)
    if isinstance(source, str) and source.endswith(".json"):
        json_file = paths.resolve(source, f"The annotation file of {name!r}")
        content, images = read_json(json_file), image_root
    else:  # another format: as its class reads it
        content = kind(config, name, is_train=False).coco_ground_truth() or {}
        images = Path()
    return check_coco(name, content, images, num_classes=num_classes_of(config), files=files)


def check_before_training(config: Any) -> None:
    """The short form: all annotations, and some of the image files; findings go to the log."""
    evaluated = config.DATASETS.TEST if config.TEST.EVAL_PERIOD >= 0 else ()
    for name in dict.fromkeys([*config.DATASETS.TRAIN, *evaluated]):
        report, _ = check_named(config, name, files=_SAMPLE)
        grave = report.count("error") + report.count("warning")
        if grave:
            logger.warning(f"Data check (pods_check reads every image):\n{report}")
        unread = [len(report.found[k]) for k in ("missing file", "corrupt file")]
        if report.files_read and sum(unread) == report.files_read:
            raise DataError(
                f"None of {report.files_read} images of {name!r} that were looked at can be read, "
                f"for example {(report.found['missing file'] or report.found['corrupt file'])[0]}."
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_check; exit status 1 where there are errors."""
    parser = make_parser("Examine data sets: images, boxes, classes.", launches=False)
    parser.add_argument(
        "--dataset", nargs="+", metavar="NAME", help="registered names (default: TRAIN and TEST)"
    )
    parser.add_argument("--json", metavar="FILE", help="a COCO file instead, without experiment")
    parser.add_argument("--images", metavar="FOLDER", default=".", help="images of --json")
    parser.add_argument("--num-classes", type=int, metavar="K", help="what --json should have")
    parser.add_argument("--quick", action="store_true", help=f"open {_SAMPLE} image files only")
    parser.add_argument(
        "--fix", metavar="OUT.json", help="write the annotations without what is wrong"
    )
    args = parser.parse_intermixed_args(argv)
    with reporting_errors():
        reports = _examine(args)
    if any(report.count("error") for report in reports):
        sys.exit(1)


def _examine(args: argparse.Namespace) -> list[Report]:
    files = _SAMPLE if args.quick else None
    names = args.dataset
    if args.fix is not None and args.json is None and len(names or ()) != 1:
        raise DataError("--fix writes one data set: name it with --dataset NAME.")
    checked: list[tuple[Report, dict[str, Any]]] = []
    sources: list[Path] = []
    if args.json is not None:
        path = Path(args.json)
        content, count = read_json(path), args.num_classes
        checked.append(check_coco(path.name, content, args.images, num_classes=count, files=files))
        sources.append(path)
    else:
        config, _ = load_config(args)
        names = names or dict.fromkeys([*config.DATASETS.TRAIN, *config.DATASETS.TEST])
        for name in names:
            checked.append(check_named(config, name, files))
            sources.append(Path(str(resolve_images(name)[1])))
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
        if not mended[section]:
            raise DataError(f"--fix {out}: nothing of {section} would be left; nothing is written.")
    write_file(out, json.dumps(mended).encode())
    print(
        f"Wrote {out}: {len(mended['images']):,} images, {len(mended['annotations']):,} boxes. "
        f"{report.name} is unchanged."
    )


if __name__ == "__main__":
    main()
