"""pods_export: an experiment's detector as an ONNX or PyTorch graph."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.layers import DeformConv
from cvpods.modeling.meta_arch import DenseDetector
from cvpods.tools.common import chosen_weights, make_parser, open_experiment, reporting_errors
from cvpods.tools.detectors import is_graph, load_detector
from cvpods.tools.predictor import class_names
from cvpods.utils.errors import CheckpointError, ConfigError
from cvpods_ext.deploy.export import (
    FORMATS,
    InputShape,
    check_opset,
    export_program,
    parse_shape,
    parse_size,
    simplify,
    to_onnx,
    write_onnx,
    write_pt2,
)
from cvpods_ext.deploy.graphs import DetectorGraph, NetworkGraph, anchors_of
from cvpods_ext.deploy.info import GraphInfo, expected_of
from cvpods_ext.deploy.precision import fold_batch_norms, to_half
from cvpods_ext.deploy.verify import verify

_DESCRIPTION = """
Export an experiment's detector. The graph is the network: normalised images in, the head's maps
out, one for each output and level. With --with-postprocess it is all of the detector: boxes,
scores, labels.
"""
DEFORM_CONVS = ("operator", "grid-sample")


def run(args: argparse.Namespace) -> Path:
    """Export as the flags say; returns the file that was written.

    Raises:
        ConfigError: flags that do not fit together, or not the model; a package is missing.
        CheckpointError: the weights cannot be used, or the file cannot be written.
    """
    target = _target(args)
    check_opset(args.opset)
    size = None if args.size == "dynamic" else parse_size(args.size)
    shape = InputShape(_batch(args.batch), size)
    overwrite = args.overwrite_input_shape and parse_shape(args.overwrite_input_shape)
    if args.format == "pt2" and args.simplify:
        raise ConfigError("--simplify works on ONNX; for a .pt2 give --batch and --size numbers.")
    if overwrite and not args.simplify:
        raise ConfigError("--overwrite-input-shape goes with --simplify.")
    config, build_model = open_experiment(args.dir or ".", args.opts, device="cpu")
    if args.weights and "MODEL.WEIGHTS" in args.opts[::2]:
        raise ConfigError("Give the weights once: --weights or MODEL.WEIGHTS, not both.")
    weights = args.weights or chosen_weights(config, args.opts)
    model, names = load(config, build_model, weights)
    for module in model.modules():
        if isinstance(module, DeformConv):
            module.by_operator = args.deform_conv == "operator"
    reference = copy.deepcopy(model) if args.verify else None
    fold_batch_norms(model)
    if args.half:
        to_half(model)
    graph = (DetectorGraph if args.with_postprocess else NetworkGraph)(model)
    info = GraphInfo(
        kind=graph.kind,
        detector=type(model).__name__,
        inputs=list(graph.input_names),
        outputs=list(graph.output_names),
        divisor=model.network.size_divisibility,
        num_classes=model.num_classes,
        levels=list(model.in_features),
        anchors=anchors_of(model),
        half=args.half,
        class_names=names,
        weights=Path(str(weights)).name,
        expects=expected_of(config, graph.kind),
    )
    program = export_program(graph, shape)
    if args.format == "pt2":
        write_pt2(program, info, target)
    else:
        onnx_model = to_onnx(program, graph, info, args.opset)
        if args.simplify:
            onnx_model = simplify(onnx_model, overwrite)
        write_onnx(onnx_model, target)
    mebibytes = target.stat().st_size / 2**20
    logger.info(f"Wrote {target} ({mebibytes:.1f} MiB), the {graph.kind} of {info.detector}.")
    if reference is not None:
        verify(target, reference)
    return target


def load(config: Any, build_model: Any, weights: str | Path) -> tuple[DenseDetector, list[str]]:
    """The detector with its weights, in evaluation, and its class names: the weights', else the
    test data set's, else [].

    Raises:
        ConfigError: it is no DenseDetector.
        CheckpointError: `weights` is a graph, or cannot be used.
    """
    if is_graph(weights):
        raise CheckpointError(f"--weights {weights} is a graph already; export from its weights.")
    config.TRAINER.COMPILE = config.TRAINER.CHANNELS_LAST = False
    model, names = load_detector(config, build_model, weights)
    if not isinstance(model, DenseDetector):
        raise ConfigError(
            f"pods_export knows detectors derived from DenseDetector, not {type(model).__name__}."
        )
    fits = len(names) == model.num_classes
    return model.eval(), names if fits else class_names(config, model.num_classes)


def _target(args: argparse.Namespace) -> Path:
    target = Path(args.output).expanduser()
    if target.suffix != f".{args.format}":
        raise ConfigError(f"--output must end in .{args.format}, as --format says; got {target}.")
    return target


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--batch is a number or 'dynamic'; got {text!r}.") from None


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_export."""
    parser = make_parser(_DESCRIPTION, launches=False)
    parser.add_argument(
        "--weights",
        help="path or address; default: MODEL.WEIGHTS of the overrides, or the newest checkpoint",
    )
    parser.add_argument("--output", required=True, help="the file to write")
    parser.add_argument("--format", choices=FORMATS, default="onnx")
    parser.add_argument("--opset", type=int, default=20, help="of ONNX, 18 or later (default: 20)")
    parser.add_argument("--batch", default="dynamic", help="images at once; default: dynamic")
    parser.add_argument("--size", default="dynamic", help="800x1344, height first; or dynamic")
    parser.add_argument("--half", action="store_true", help="FP16 but for its delicate parts")
    parser.add_argument("--with-postprocess", action="store_true", help="boxes, scores, labels")
    parser.add_argument("--simplify", action="store_true", help="by onnxslim")
    parser.add_argument(
        "--overwrite-input-shape",
        metavar="input:N,3,H,W",
        help="with --simplify: the shape that a graph for any is fixed to",
    )
    parser.add_argument(
        "--deform-conv",
        choices=DEFORM_CONVS,
        default="operator",
        help="DCNv2 by ONNX' DeformConv, or for runtimes without it by GridSample",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="run the file, compare with PyTorch, fail if it differs",
    )
    with reporting_errors():
        run(parser.parse_intermixed_args(argv))


if __name__ == "__main__":
    main()
