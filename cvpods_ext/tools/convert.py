"""pods_convert: weights from one framework's names, or file format, to another's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cvpods.tools.errors import reporting_errors
from cvpods.tools.experiment import open_experiment
from cvpods_ext.convert.layouts import LAYOUTS, MMDET_METHODS

_DESCRIPTION = """
Convert weights of mmdetection, maskrcnn-benchmark, detectron2, torchvision or cvpods to this
project, or weights of this project to mmdetection. The report lists what became of every tensor.
"""


def _convert(args: argparse.Namespace) -> None:
    experiment = open_experiment(args.dir, device="cpu") if args.dir else None
    from cvpods.utils.logger import setup_logger
    from cvpods_ext.convert.files import convert_file

    setup_logger()
    converted = convert_file(
        args.input,
        args.output,
        source=args.source,
        to=args.to,
        method=args.method,
        experiment=experiment,
        strip=args.strip,
    )
    print(converted.conversion.describe(every=not args.quiet))
    path, sha256 = converted.write(args.allow_partial)
    # The format of sha256sum.
    print(f"{sha256}  {path.name}")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=_DESCRIPTION)
    parser.add_argument("input", help="a file or an address, as MODEL.WEIGHTS takes it")
    parser.add_argument("output", nargs="?", help="the file to write, .pth or .safetensors")
    parser.add_argument(
        "--from",
        dest="source",
        default="auto",
        choices=["auto", *LAYOUTS],
        help="framework of the input (default: %(default)s, recognised by its names)",
    )
    parser.add_argument(
        "--to",
        default="cvpods",
        choices=["cvpods", "mmdet"],
        help="framework of the output (default: %(default)s)",
    )
    parser.add_argument(
        "--method", choices=list(MMDET_METHODS), help="with --to mmdet: the detector"
    )
    parser.add_argument("--dir", help="an experiment's folder: compare with its network")
    parser.add_argument(
        "--strip",
        action="store_true",
        help="write the weights of a training checkpoint alone; without an output, to a file "
        "beside it whose name ends in eight digits of its hash",
    )
    parser.add_argument("--allow-partial", action="store_true", help="write an incomplete result")
    parser.add_argument("--quiet", action="store_true", help="do not list the tensors in use")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run pods_convert."""
    args = _make_parser().parse_intermixed_args(argv)
    with reporting_errors():
        _convert(args)


if __name__ == "__main__":
    main()
