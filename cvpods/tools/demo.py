"""pods_demo: draw an experiment's detections on images, videos or a camera's pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cvpods.configs import BaseConfig
from cvpods.tools.errors import reporting_errors
from cvpods.tools.experiment import load_config
from cvpods.tools.flags import make_parser
from cvpods.utils.errors import ConfigError

PER_CLASS = "per-class"
DEFAULT_SCORE = 0.5


def main(argv: Sequence[str] | None = None) -> None:
    """Run pods_demo; the exit status is 1 if a source cannot be used."""
    args = _parser().parse_intermixed_args(argv)
    with reporting_errors():
        split_overrides(args)
        if args.max_frames is not None and args.max_frames < 1:
            raise ConfigError(f"--max-frames must be at least 1; got {args.max_frames}.")
        if args.score != PER_CLASS:
            parse_score(args.score)
        config, build_model = load_config(args)
        from cvpods.tools.demo_run import draw_sources

        bad = draw_sources(args, config, build_model)
    if bad:
        print(f"error: {len(bad)} not used: {', '.join(bad)}", file=sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of pods_demo."""
    parser = make_parser(
        "Draw detections on images, videos or a camera's pictures.", launches=False
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files, folders, patterns ('shots/*.jpg'), videos, 'camera' or 'camera:1'",
    )
    parser.add_argument("--output", help="folder for the pictures (OUTPUT_DIR/demo)")
    parser.add_argument(
        "--score",
        default=str(DEFAULT_SCORE),
        help="least score that is drawn, or 'per-class': for each class the score with the best "
        "F-measure in the results on the test data set (%(default)s)",
    )
    parser.add_argument(
        "--results",
        help="results for per-class scores (OUTPUT_DIR/inference/coco_instances_results.json)",
    )
    parser.add_argument("--json", action="store_true", help="also write the detections as JSON")
    parser.add_argument(
        "--max-frames", type=int, help="frames of each video; cameras run until Ctrl-C"
    )
    return parser


def split_overrides(args: argparse.Namespace) -> None:
    """Move KEY VALUE pairs that argparse took for files of --input to the overrides.

    Raises:
        ConfigError: --input names nothing.
    """
    groups = BaseConfig()  # keys are MODEL.WEIGHTS, SEED, ...
    for index, text in enumerate(args.input):
        if text.partition(".")[0] in groups and not Path(text).exists():
            args.opts = args.input[index:] + args.opts
            args.input = args.input[:index]
            break
    if not args.input:
        raise ConfigError("--input names nothing; give files, a folder, a pattern or 'camera'.")


def parse_score(text: str) -> float:
    """Return the least score that --score gives for all classes.

    Raises:
        ConfigError: it is not a number in 0 ... 1.
    """
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise ConfigError(f"--score must be in 0 ... 1, or {PER_CLASS}; got {text!r}.")
    return score


if __name__ == "__main__":
    main()
