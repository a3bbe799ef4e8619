"""pods_export: an experiment's detector as an ONNX or PyTorch graph."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cvpods.tools.errors import reporting_errors
from cvpods.tools.experiment import open_experiment
from cvpods.tools.flags import check_num_gpus, make_parser
from cvpods_ext.deploy.options import (
    DEFORM_CONVS,
    FORMATS,
    MAX_OPSET,
    MIN_OPSET,
    ExportOptions,
    InputShape,
    parse_batch,
    parse_shape,
    parse_size,
)

_DESCRIPTION = """
Export an experiment's detector. The graph takes normalised images. It returns the head's maps, one
for each output and level; with --with-postprocess it returns boxes, scores and labels.
"""


def _options(args: argparse.Namespace) -> ExportOptions:
    """Return the flags as options.

    Raises:
        ConfigError: a flag cannot be used, or two flags contradict each other.
    """
    size = None if args.size == "dynamic" else parse_size(args.size)
    overwritten = args.overwrite_input_shape
    return ExportOptions(
        output=Path(args.output).expanduser(),
        format=args.format,
        opset=args.opset,
        shape=InputShape(parse_batch(args.batch), size),
        half=args.half,
        with_postprocess=args.with_postprocess,
        simplify=args.simplify,
        simplified_shape=parse_shape(overwritten) if overwritten else None,
        deform_conv=args.deform_conv,
        verify=args.verify,
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(_DESCRIPTION, launches=False)
    parser.add_argument(
        "--weights",
        help="path or address (default: MODEL.WEIGHTS of the overrides, or the newest checkpoint)",
    )
    parser.add_argument("--output", required=True, help="the file to write")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="(default: %(default)s)")
    parser.add_argument(
        "--opset",
        type=int,
        default=20,
        help=f"version of ONNX' operators, {MIN_OPSET} to {MAX_OPSET} (default: %(default)s)",
    )
    parser.add_argument(
        "--batch", default="dynamic", help="images in a batch, or dynamic (default: %(default)s)"
    )
    parser.add_argument(
        "--size",
        default="dynamic",
        help="HEIGHTxWIDTH, for example 800x1344, or dynamic (default: %(default)s)",
    )
    parser.add_argument(
        "--half", action="store_true", help="compute in FP16, except where its range is too small"
    )
    parser.add_argument(
        "--with-postprocess",
        action="store_true",
        help="export the whole detector: boxes, scores, labels",
    )
    parser.add_argument(
        "--simplify", action="store_true", help="fold constants and fuse nodes with onnxslim"
    )
    parser.add_argument(
        "--overwrite-input-shape",
        metavar="input:N,3,H,W",
        help="with --simplify: fix the open axes of the input to this shape",
    )
    parser.add_argument(
        "--deform-conv",
        choices=DEFORM_CONVS,
        default="operator",
        help="compute DCNv2 with ONNX' DeformConv, or with GridSample for runtimes without it "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="run the file, compare with PyTorch, and fail if it differs",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run pods_export."""
    args = _make_parser().parse_intermixed_args(argv)
    with reporting_errors():
        options = _options(args)
        config, build_model = open_experiment(args.dir or ".", args.opts, device="cpu")
        check_num_gpus(args)
        from cvpods.utils.logger import setup_logger
        from cvpods_ext.deploy.experiment import export_experiment

        setup_logger()
        export_experiment(config, build_model, options, args.weights, args.opts)


if __name__ == "__main__":
    main()
