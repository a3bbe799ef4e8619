"""pods_infer: an exported graph's accuracy on a data set, and its speed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.data import register_coco_instances
from cvpods.engine import RUNNERS, default_setup
from cvpods.evaluation import without_nan
from cvpods.evaluation.provenance import ENTRY, read_provenance
from cvpods.tools.common import load_config, make_parser, reporting_errors
from cvpods.tools.detectors import is_graph, load_detector
from cvpods.utils.env import select_device
from cvpods.utils.errors import CheckpointError, ConfigError, DataError
from cvpods_ext.deploy.detector import RESIZES
from cvpods_ext.deploy.export import InputShape, parse_size
from cvpods_ext.deploy.performance import RUNS, WARMUP, measure
from cvpods_ext.deploy.sessions import FILES, PROVIDERS, open_session

_DESCRIPTION = """
Run a graph that pods_export wrote. --mode performance times it on noise. --mode accuracy evaluates
it on the experiment's test data set, or on COCO's val2017 in the folder that --datasets or
$DATASETS_DIR names (images/val2017, annotations/instances_val2017.json).
"""
_DEFAULT_SIZE = (800, 1344)


def performance(args: argparse.Namespace) -> bool:
    """Time the graph; whether --target-fps is met.

    Raises:
        ConfigError: the graph is not for this batch or size, or a number cannot be used.
    """
    for name in ("warmup", "runs"):
        least = 0 if name == "warmup" else 1
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} is at least {least}; got {getattr(args, name)}.")
    if args.opts:
        raise ConfigError(
            f"--mode performance runs the graph alone; {' '.join(args.opts)} would do nothing."
        )
    device = "cpu" if args.num_gpus == 0 else select_device("cuda")
    session = open_session(args.model, args.provider or "auto", device)
    size = parse_size(args.size) if args.size else session.size or _DEFAULT_SIZE
    batch = args.batch or session.batch or 1
    InputShape(batch, size).check(session.info.divisor)
    timing = measure(session, batch, size, args.warmup, args.runs)
    precision = "FP16" if session.info.half else "FP32"
    what = f"{session.info.detector} {session.info.kind}, {precision}, {size[0]}x{size[1]}"
    logger.info(f"{args.model}: {what}, by {session.device}")
    logger.info(timing.describe())
    result = {
        "model": str(args.model),
        "device": session.device,
        "precision": precision,
        "batch": batch,
        "size": list(size),
        "median_s": timing.median,
        "p99_s": timing.p99,
        "images_per_second": timing.images_per_second,
    }
    _write_results(args, result)
    return _meets("images/s", timing.images_per_second, args.target_fps)


def accuracy(args: argparse.Namespace) -> bool:
    """Evaluate the graph; whether --target-ap is met.

    Raises:
        ConfigError, DataError: the graph does not fit the experiment; the data is not there.
    """
    config, build_model = load_config(args)
    folder = args.datasets or os.environ.get("DATASETS_DIR")
    if folder:
        config.DATASETS.TEST = (_register_coco(Path(folder).expanduser()),)
    if len(config.DATASETS.TEST) != 1:
        raise ConfigError(f"pods_infer takes one DATASETS.TEST; got {list(config.DATASETS.TEST)}.")
    config.TEST.GRAPH.PROVIDER = args.provider or config.TEST.GRAPH.PROVIDER
    config.TEST.GRAPH.RESIZE = args.resize or config.TEST.GRAPH.RESIZE
    config = default_setup(config, args)
    model, _ = load_detector(config, build_model, args.model)
    if args.batch:
        config.TEST.IMS_PER_DEVICE = args.batch
    runner = RUNNERS.get(config.TRAINER.NAME)
    target = Path(config.OUTPUT_DIR) / f"infer_{Path(args.model).stem}"
    results = runner.test(config, model, target)
    origin = {ENTRY: read_provenance(target)}
    _write_results(args, {"model": str(args.model), **without_nan(results), **origin})
    return _meets("AP", results["bbox"]["AP"], args.target_ap)


def _register_coco(folder: Path) -> str:
    """Register val2017 of a folder of COCO; returns the name of the data set.

    Raises:
        DataError: images or annotations are not in it.
    """
    images, annotations = folder / "images/val2017", folder / "annotations/instances_val2017.json"
    images = images if images.is_dir() else folder / "val2017"
    for path in (images, annotations):
        if not path.exists():
            raise DataError(
                f"{path} does not exist. --datasets or $DATASETS_DIR names a folder with "
                "images/val2017 and annotations/instances_val2017.json."
            )
    register_coco_instances("infer_val2017", annotations.resolve(), images.resolve())
    return "infer_val2017"


def _meets(name: str, value: float, target: float | None) -> bool:
    """Log whether a value reaches its target; True without one. NaN reaches none."""
    if target is None:
        return True
    met = value >= target
    level, word = ("SUCCESS", "is met") if met else ("ERROR", "is missed")
    logger.log(level, f"Target {name} {target:g} {word}: {value:.3f}.")
    return met


def _write_results(args: argparse.Namespace, results: dict[str, Any]) -> None:
    if not args.json:
        return
    path = Path(args.json)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {path} cannot be written: {error}") from error


def run(args: argparse.Namespace) -> bool:
    """Do what --mode says; whether the target is met.

    Raises:
        CheckpointError: --model is no graph.
    """
    if not is_graph(args.model):
        raise CheckpointError(
            f"--model takes a graph ({', '.join(FILES)}), not {args.model}. Export weights first: "
            f"pods_export --weights {args.model} --output model.onnx"
        )
    if args.batch is not None and args.batch < 1:
        raise ConfigError(f"--batch is at least 1; got {args.batch}.")
    return (performance if args.mode == "performance" else accuracy)(args)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_infer."""
    parser = make_parser(_DESCRIPTION, launches=False)
    parser.add_argument("--model", required=True, help="x.onnx or x.pt2")
    parser.add_argument("--mode", choices=("accuracy", "performance"), default="accuracy")
    parser.add_argument("--batch", type=int, help="images at once; default: the graph's, or 1")
    parser.add_argument("--provider", choices=PROVIDERS, help="default: TEST.GRAPH.PROVIDER")
    parser.add_argument("--datasets", metavar="DIR", help="a folder of COCO; $DATASETS_DIR")
    parser.add_argument(
        "--resize",
        choices=list(RESIZES),
        help="how images get the size of a graph of fixed size: fit keeps the ratio of the sides "
        "and pads; stretch does not (default: TEST.GRAPH.RESIZE)",
    )
    parser.add_argument("--size", help="performance of a graph of any size: HEIGHTxWIDTH")
    parser.add_argument("--warmup", type=int, default=WARMUP, help="runs before the timed ones")
    parser.add_argument("--runs", type=int, default=RUNS, help="timed runs")
    parser.add_argument("--target-fps", type=float, help="exit status 1 below so many images/s")
    parser.add_argument("--target-ap", type=float, help="exit status 1 below this AP (0 - 100)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    with reporting_errors():
        met = run(parser.parse_intermixed_args(argv))
    if not met:
        sys.exit(1)


if __name__ == "__main__":
    main()
