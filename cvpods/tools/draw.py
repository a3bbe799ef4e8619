"""pods_draw: the last evaluation's detections beside the ground truth, in one picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cvpods.tools.errors import reporting_errors
from cvpods.tools.experiment import load_config
from cvpods.tools.flags import make_parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run pods_draw."""
    args = _parser().parse_intermixed_args(argv)
    with reporting_errors():
        config, _ = load_config(args)
        from cvpods.tools.detections_picture import draw

        draw(args, config)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of pods_draw."""
    parser = make_parser(
        "Draw the last evaluation's detections beside the ground truth.", launches=False
    )
    parser.add_argument("--output", help="picture to write (detections.png beside the results)")
    parser.add_argument(
        "--results", help="coco_instances_results.json to draw (of the last evaluation)"
    )
    parser.add_argument("--count", type=int, default=8, help="number of images (%(default)s)")
    parser.add_argument(
        "--score", type=float, default=0.4, help="least score that is drawn (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    main()
