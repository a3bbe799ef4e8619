"""pods_check: examine data sets before training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cvpods.data.conventions import BOX_FORMATS
from cvpods.tools.errors import reporting_errors
from cvpods.tools.experiment import load_config
from cvpods.tools.flags import make_parser

# Image files of each data set that --quick, and the check at the start of a training, open.
SAMPLE = 64


def main(argv: Sequence[str] | None = None) -> None:
    """Run pods_check; the exit status is 1 if a data set has errors."""
    args = _parser().parse_intermixed_args(argv)
    with reporting_errors():
        config = None if args.json is not None else load_config(args)[0]
        from cvpods.tools.data_checks import examine
        from cvpods.utils.logger import setup_logger

        setup_logger()
        reports = examine(args, config, files=SAMPLE if args.quick else None)
    if any(report.count("error") for report in reports):
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of pods_check."""
    parser = make_parser("Examine data sets: images, boxes, classes.", launches=False)
    parser.add_argument(
        "--dataset", nargs="+", metavar="NAME", help="registered names (default: TRAIN and TEST)"
    )
    parser.add_argument("--json", metavar="FILE", help="a COCO file, without an experiment")
    parser.add_argument("--images", metavar="FOLDER", default=".", help="the images of --json")
    parser.add_argument("--num-classes", type=int, metavar="K", help="classes expected in --json")
    parser.add_argument(
        "--boxes",
        choices=BOX_FORMATS,
        default="xywh",
        help="the format of the file's boxes; --fix converts them to COCO's x, y, width, height",
    )
    parser.add_argument("--quick", action="store_true", help=f"open only {SAMPLE} image files")
    parser.add_argument("--fix", metavar="OUT.json", help="write corrected annotations")
    return parser


if __name__ == "__main__":
    main()
