"""pods_infer: the accuracy of an exported graph on a data set, and its speed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cvpods.tools.errors import reporting_errors
from cvpods.tools.experiment import load_config
from cvpods.tools.flags import check_num_gpus, make_parser
from cvpods.utils.errors import CheckpointError, ConfigError
from cvpods_ext.deploy.options import (
    GRAPH_SUFFIXES,
    PROVIDERS,
    RESIZES,
    RUNS,
    WARMUP,
    parse_size,
)

_DESCRIPTION = """
Run a graph that pods_export wrote. --mode performance times it on noise. --mode accuracy evaluates
it on the experiment's test data set, or on COCO's val2017 in the folder that --datasets or
$DATASETS_DIR names (images/val2017, annotations/instances_val2017.json).
"""


def _check(args: argparse.Namespace) -> None:
    """Check the flags before anything is loaded.

    Raises:
        CheckpointError: --model is not a graph.
        ConfigError: a number is too small, or the overrides would have no effect.
    """
    if Path(args.model).suffix.lower() not in GRAPH_SUFFIXES:
        raise CheckpointError(
            f"--model must be a graph ({', '.join(GRAPH_SUFFIXES)}); got {args.model}. Export "
            f"weights first: pods_export --weights {args.model} --output model.onnx"
        )
    least = {"batch": 1, "warmup": 0, "runs": 1}
    for name, bound in least.items():
        value = getattr(args, name)
        if value is not None and value < bound:
            raise ConfigError(f"--{name} must be at least {bound}; got {value}.")
    if args.mode == "performance" and args.opts:
        raise ConfigError(
            "--mode performance runs the graph alone; the overrides "
            f"{' '.join(args.opts)} would have no effect. Leave them out."
        )


def _performance(args: argparse.Namespace) -> bool:
    """Time the graph; return whether --target-fps is met."""
    size = parse_size(args.size) if args.size else None
    check_num_gpus(args)
    from cvpods.utils.env import select_device
    from cvpods.utils.logger import setup_logger
    from cvpods_ext.deploy.performance import time_graph

    setup_logger()
    figures = time_graph(
        args.model,
        provider=args.provider or "auto",
        device="cpu" if args.num_gpus == 0 else select_device("cuda"),
        batch=args.batch,
        size=size,
        warmup=args.warmup,
        runs=args.runs,
    )
    _write_results(args.json, figures)
    return _meets("images/s", figures["images_per_second"], args.target_fps)


def _accuracy(args: argparse.Namespace) -> bool:
    """Evaluate the graph; return whether --target-ap is met."""
    config, build_model = load_config(args)
    from cvpods_ext.deploy.accuracy import evaluate_graph

    results = evaluate_graph(
        config,
        build_model,
        args.model,
        datasets=args.datasets,
        provider=args.provider,
        resize=args.resize,
        batch=args.batch,
        arguments=args,
    )
    _write_results(args.json, results)
    return _meets("AP", results["bbox"]["AP"], args.target_ap)


def _meets(name: str, value: float | None, target: float | None) -> bool:
    """Log and return whether a value reaches its target; None as a value reaches no target."""
    if target is None:
        return True
    from loguru import logger

    met = value is not None and value >= target
    level, word = ("SUCCESS", "is met") if met else ("ERROR", "is missed")
    shown = "nan" if value is None else f"{value:.3f}"
    logger.log(level, f"Target {name} {target:g} {word}: {shown}.")
    return met


def _write_results(file: str | None, results: dict[str, Any]) -> None:
    if file is None:
        return
    path = Path(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {path} cannot be written: {error}") from error


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(_DESCRIPTION, launches=False)
    parser.add_argument("--model", required=True, help="the graph, x.onnx or x.pt2")
    parser.add_argument(
        "--mode",
        choices=("accuracy", "performance"),
        default="accuracy",
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--batch", type=int, help="images in a batch (default: the graph's batch, or 1)"
    )
    parser.add_argument(
        "--provider", choices=PROVIDERS, help="runtime and device (default: TEST.GRAPH.PROVIDER)"
    )
    parser.add_argument(
        "--datasets", metavar="DIR", help="a folder of COCO (default: $DATASETS_DIR)"
    )
    parser.add_argument(
        "--resize",
        choices=list(RESIZES),
        help="how images get the size of a graph of fixed size: fit keeps the ratio of the sides "
        "and pads; stretch does not (default: TEST.GRAPH.RESIZE)",
    )
    parser.add_argument(
        "--size", help="with --mode performance: HEIGHTxWIDTH, for a graph of any size"
    )
    parser.add_argument(
        "--warmup", type=int, default=WARMUP, help="runs before the timed ones (%(default)s)"
    )
    parser.add_argument("--runs", type=int, default=RUNS, help="timed runs (%(default)s)")
    parser.add_argument(
        "--target-fps", type=float, help="exit with status 1 below this number of images/s"
    )
    parser.add_argument("--target-ap", type=float, help="exit with status 1 below this AP (0-100)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run pods_infer; exit with status 1 if a target is missed."""
    args = _make_parser().parse_intermixed_args(argv)
    with reporting_errors():
        _check(args)
        met = (_performance if args.mode == "performance" else _accuracy)(args)
    if not met:
        sys.exit(1)


if __name__ == "__main__":
    main()
