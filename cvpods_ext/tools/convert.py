"""pods_convert: weights from one framework's names, or file format, to another's."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cvpods
from cvpods.checkpoint import read_file, write_weights
from cvpods.checkpoint.catalog import expects_of
from cvpods.checkpoint.download import file_sha256
from cvpods.checkpoint.expectations import check_expectations, differences
from cvpods.checkpoint.files import check_writable, find_weights, plain_dict
from cvpods.configs.config_dict import flatten
from cvpods.tools.common import open_experiment, reporting_errors
from cvpods.utils.errors import CheckpointError
from cvpods_ext.configs.frameworks import ARITHMETIC
from cvpods_ext.convert import mmdet_meta
from cvpods_ext.convert.conversion import Shape, convert
from cvpods_ext.convert.layouts import LAYOUTS
from cvpods_ext.convert.reading import expectations, tensors
from cvpods_ext.convert.to_mmdet import METHODS, to_mmdet

_DESCRIPTION = """
Convert weights: mmdetection, maskrcnn-benchmark, detectron2, torchvision or cvpods to this project,
or this project's to mmdetection. Says what became of every tensor.
"""
# What weights expect of an input, and of a ResNet.
INPUT_KEYS = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1",
)


def run(args: argparse.Namespace) -> Path:
    """Convert args.input; returns the file that was written.

    Raises:
        CheckpointError: not readable, of no known layout, or tensors are left over or missing and
            --allow-partial is not given.
        ConfigError: the experiment of --dir gives them something else than they expect.
    """
    source = find_weights(args.input)
    target = _target(args, source)
    if args.to == "mmdet" and args.method is None:
        raise CheckpointError(f"--to mmdet needs --method, one of {', '.join(METHODS)}.")
    content = read_file(source)
    config, shapes = _experiment(args.dir)
    weights, averaged = _weights(content)
    conversion = convert(weights, args.source, shapes)
    if averaged:
        conversion.notes.append("The averaged weights (EMA), which are what evaluation uses.")
    trained = _config_of_run(source) if config is None else dict(flatten(config))
    # By their file, their framework, and the catalogue.
    said = expectations(conversion, content) | expects_of(args.input)
    if config is not None:
        check_expectations(config, said, f"{args.input} and --dir")
    provenance = _provenance(args.input, source, content, conversion.layout)
    # Of weights of this project, the run or the experiment says what they expect, too.
    own = _input_keys(trained) if conversion.layout == "cvpods" else {}
    provenance["expects"] = {**own, **said}
    if args.to == "mmdet":
        conversion = to_mmdet(conversion.weights, args.method)
        conversion.notes += _computed_otherwise(args.method, trained)
    print(conversion.describe(every=not args.quiet))
    if not conversion.complete and not args.allow_partial:
        raise CheckpointError(
            f"{args.input} converts in part only: {len(conversion.unused)} tensors unused, "
            f"{len(conversion.missing)} missing (above). Nothing was written; --allow-partial "
            "writes what there is."
        )
    key = "state_dict" if args.to == "mmdet" else "model"
    write_weights(target, conversion.weights, provenance, key)
    sha256 = file_sha256(target)
    if args.output is None:
        target = target.replace(target.with_stem(f"{target.stem}-{sha256[:8]}"))
    # As sha256sum prints and reads it.
    print(f"{sha256}  {target.name}")
    return target


def _experiment(folder: str | None) -> tuple[Any, dict[str, Shape] | None]:
    """The config of an experiment, and the shapes of its network."""
    if folder is None:
        return None, None
    config, build_model = open_experiment(folder, device="cpu")
    with torch.device("meta"):
        states = build_model(config).state_dict()
    return config, {name: tuple(value.shape) for name, value in states.items()}


def _weights(content: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """The weights of a file; the averaged ones where it has them."""
    averaged = tensors(content.get("ema"))
    return averaged or tensors(content["model"]), bool(averaged)


def _provenance(address: str, source: Path, content: dict[str, Any], layout: str) -> dict[str, Any]:
    """Where the weights come from, and their classes."""
    names = plain_dict(content.get("provenance")).get("class_names") or content.get("thing_classes")
    names = names if isinstance(names, (list, tuple)) else []
    return {
        "source": address if "://" in address else source.name,
        "sha256": file_sha256(source),
        "layout": layout,
        "class_names": list(names or mmdet_meta.class_names(content.get("meta"))),
        "converted_by": f"cvpods-ext {cvpods.__version__}",
    }


def _input_keys(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {key: flat[key] for key in INPUT_KEYS if key in flat}


def _config_of_run(source: Path) -> dict[str, Any]:
    """The flat config.json beside a checkpoint, {} where there is none."""
    try:
        written = json.loads((source.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plain_dict(written)


def _computed_otherwise(method: str, trained: dict[str, Any]) -> list[str]:
    """Notes on what mmdetection computes otherwise than the training's flat config, if known."""
    other = differences(trained, ARITHMETIC["mmdet"][method.upper()])
    if not other:
        return []
    keys = ", ".join(f"{key} {value}" for key, value in other.items())
    return [f"mmdetection computes otherwise than these weights were trained: {keys}."]


def _target(args: argparse.Namespace, source: Path) -> Path:
    """Where to write: the output, or with --strip a name after the input's beside it."""
    if args.output is not None:
        target = Path(args.output).expanduser()
    elif args.strip:
        target = source.with_name(f"{source.stem}.weights.pth")
    else:
        raise CheckpointError("Name the file to write (only --strip finds a name by itself).")
    check_writable(target)
    if target.resolve() == source.resolve():
        raise CheckpointError(f"{target} is the input; name another file to write.")
    return target


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_convert."""
    parser = argparse.ArgumentParser(description=_DESCRIPTION)
    parser.add_argument("input", help="a file or an address, as MODEL.WEIGHTS takes it")
    parser.add_argument("output", nargs="?", help=".pth or .safetensors")
    parser.add_argument("--from", dest="source", default="auto", choices=["auto", *LAYOUTS])
    parser.add_argument("--to", default="cvpods", choices=["cvpods", "mmdet"])
    parser.add_argument("--method", choices=list(METHODS), help="the detector, for --to mmdet")
    parser.add_argument("--dir", help="an experiment's folder: check against its network")
    parser.add_argument(
        "--strip",
        action="store_true",
        help="of a training checkpoint, the weights alone; without an output, beside it under a "
        "name that ends in eight digits of its hash",
    )
    parser.add_argument("--allow-partial", action="store_true", help="write an incomplete result")
    parser.add_argument("--quiet", action="store_true", help="do not list tensors that are used")
    with reporting_errors():
        run(parser.parse_intermixed_args(argv))


if __name__ == "__main__":
    main()
