"""Conversion of a file of weights, with the provenance and the expectations of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cvpods
from cvpods.checkpoint import read_file, write_weights
from cvpods.checkpoint.catalog import expected_keys
from cvpods.checkpoint.download import file_sha256
from cvpods.checkpoint.expectations import check_expectations, differences
from cvpods.checkpoint.files import check_writable, find_weights, plain_dict
from cvpods.configs import BaseConfig
from cvpods.configs.config_dict import flatten
from cvpods.tools.experiment import BuildModel
from cvpods.utils.errors import CheckpointError
from cvpods_ext.configs.frameworks import ARITHMETIC
from cvpods_ext.convert import mmdet_meta
from cvpods_ext.convert.conversion import Conversion, Shape, convert
from cvpods_ext.convert.layouts import MMDET_METHODS
from cvpods_ext.convert.reading import expectations, plain_tensors
from cvpods_ext.convert.to_mmdet import to_mmdet

# Config keys that decide what an input holds, and where a ResNet has its strides.
INPUT_KEYS = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1",
)


@dataclass
class ConvertedFile:
    """Converted weights of a file, not yet written.

    Args:
        address: path or address of the source, as given.
        target: the file to write.
        hashed: add the first digits of the result's hash to the name of `target`.
        conversion: the weights, and the record of every tensor.
        provenance: origin, classes and expectations of the weights, ready for JSON.
        key: entry of a .pth that holds the weights.
    """

    address: str
    target: Path
    hashed: bool
    conversion: Conversion
    provenance: dict[str, Any]
    key: str

    def write(self, allow_partial: bool = False) -> tuple[Path, str]:
        """Write the weights; return the path and the SHA-256 of the file.

        Raises:
            CheckpointError: the file cannot be written, or tensors are unused or missing and
                `allow_partial` is False.
        """
        conversion = self.conversion
        if not conversion.complete and not allow_partial:
            raise CheckpointError(
                f"{self.address} can only be converted in part: {len(conversion.unused)} tensors "
                f"unused, {len(conversion.missing)} missing, as listed above. Nothing was written; "
                "with --allow-partial, the incomplete result is written."
            )
        write_weights(self.target, conversion.weights, self.provenance, self.key)
        sha256 = file_sha256(self.target)
        path = self.target
        if self.hashed:
            path = path.replace(path.with_stem(f"{path.stem}-{sha256[:8]}"))
        return path, sha256


def convert_file(
    address: str,
    output: str | None = None,
    *,
    source: str = "auto",
    to: str = "cvpods",
    method: str | None = None,
    experiment: tuple[BaseConfig, BuildModel] | None = None,
    strip: bool = False,
) -> ConvertedFile:
    """Read and convert a file of weights.

    Args:
        address: path or address of the file, as MODEL.WEIGHTS takes it.
        output: the file to write; None, with `strip`, for a name derived from the source's.
        source: layout of the file, see convert().
        to: "cvpods" or "mmdet".
        method: the detector's method, for "mmdet".
        experiment: (config, build_model) of an experiment with which the weights are compared.
        strip: allow `output` to be None.

    Raises:
        CheckpointError: the file cannot be read, or its layout is not recognised.
        ConfigError: the experiment's config contradicts what the weights expect.
    """
    path = find_weights(address)
    target = _choose_target(output, path, strip)
    if to == "mmdet" and method is None:
        raise CheckpointError(f"--to mmdet needs --method, one of {', '.join(MMDET_METHODS)}.")
    content = read_file(path)
    config = shapes = None
    if experiment is not None:
        config, build_model = experiment
        shapes = _network_shapes(config, build_model)
    weights, averaged = _choose_weights(content)
    conversion = convert(weights, source, shapes)
    if averaged:
        conversion.notes.append("These are the averaged weights (EMA), which evaluation uses.")
    trained = _config_beside(path) if config is None else dict(flatten(config))
    # What the file, its framework and the catalogue state.
    expects = expectations(conversion, content) | expected_keys(address)
    if config is not None:
        check_expectations(config, expects, f"{address} and --dir")
    provenance = _provenance(address, path, content, conversion.layout)
    # For this project's weights, the training's config states further keys.
    own = _input_keys(trained) if conversion.layout == "cvpods" else {}
    provenance["expects"] = {**own, **expects}
    if to == "mmdet" and method is not None:
        conversion = to_mmdet(conversion.weights, method)
        conversion.notes += _arithmetic_notes(method, trained)
    key = "state_dict" if to == "mmdet" else "model"
    return ConvertedFile(address, target, output is None, conversion, provenance, key)


def _choose_target(output: str | None, source: Path, strip: bool) -> Path:
    """Return the file to write: the output, or with `strip` a file beside the source."""
    if output is not None:
        target = Path(output).expanduser()
    elif strip:
        target = source.with_name(f"{source.stem}.weights.pth")
    else:
        raise CheckpointError("Name the file to write; only --strip derives a name by itself.")
    check_writable(target)
    if target.resolve() == source.resolve():
        raise CheckpointError(f"{target} is the input; name another file to write.")
    return target


def _network_shapes(config: BaseConfig, build_model: BuildModel) -> dict[str, Shape]:
    """Return the shapes of the tensors of an experiment's network."""
    with torch.device("meta"):
        states = build_model(config).state_dict()
    return {name: tuple(value.shape) for name, value in states.items()}


def _choose_weights(content: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """Return the averaged weights of a file and True; without any, its weights and False."""
    averaged = plain_tensors(content.get("ema"))
    return averaged or plain_tensors(content["model"]), bool(averaged)


def _provenance(address: str, source: Path, content: dict[str, Any], layout: str) -> dict[str, Any]:
    """Return the origin of the weights, and their class names."""
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


def _config_beside(source: Path) -> dict[str, Any]:
    """Return the flat config.json in the folder of a checkpoint; {} if it cannot be read."""
    try:
        written = json.loads((source.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plain_dict(written)


def _arithmetic_notes(method: str, trained: dict[str, Any]) -> list[str]:
    """Return a note on the keys in which mmdetection differs from the training's flat config."""
    other = differences(trained, ARITHMETIC["mmdet"][method.upper()])
    if not other:
        return []
    keys = ", ".join(f"{key} {value}" for key, value in other.items())
    return [f"mmdetection computes with other values than these weights were trained with: {keys}."]
