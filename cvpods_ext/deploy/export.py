"""Graphs to files: torch.export, then an ONNX model or a .pt2."""

from __future__ import annotations

import importlib
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from cvpods.checkpoint.atomic import write_file
from cvpods.utils.errors import ConfigError
from cvpods_ext.deploy.graphs import DetectorGraph, NetworkGraph
from cvpods_ext.deploy.info import ENTRY, GraphInfo
from cvpods_ext.deploy.nms import onnx_translation

FORMATS = ("onnx", "pt2")
MIN_OPSET, MAX_OPSET = 18, 23
# The first opset with DeformConv.
DEFORM_CONV_OPSET = 19
# Of the example that a graph of any size is traced with: no map of it has a side of one cell.
_EXAMPLE = (256, 384)


@dataclass(frozen=True)
class InputShape:
    """Shape of a graph's input; None is any.

    size: (height, width), multiples of the backbone's size_divisibility.
    """

    batch: int | None = None
    size: tuple[int, int] | None = None

    def check(self, divisor: int) -> None:
        """
        Raises:
            ConfigError: below 1, or no multiple of `divisor`.
        """
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"--batch is a number from 1 on, or 'dynamic'; got {self.batch}.")
        if self.size is None:
            return
        if any(side % divisor for side in self.size):
            wanted = "x".join(str(max(round(side / divisor), 1) * divisor) for side in self.size)
            given = "x".join(map(str, self.size))
            raise ConfigError(
                f"This network takes heights and widths that are multiples of {divisor}, {wanted} "
                f"for example; got {given}."
            )


def example_inputs(graph: NetworkGraph | DetectorGraph, shape: InputShape) -> dict[str, Tensor]:
    """Inputs of the shape, for tracing; where the shape is open, of several images and cells."""
    batch = shape.batch or 2
    height, width = shape.size or _EXAMPLE
    inputs = {
        "input": torch.zeros(batch, 3, height, width),
        "image_sizes": torch.tensor([[height, width]]).repeat(batch, 1),
    }
    return {name: inputs[name] for name in graph.input_names}


def export_program(graph: NetworkGraph | DetectorGraph, shape: InputShape) -> ExportedProgram:
    """The graph by torch.export, in evaluation, for inputs of `shape`.

    Raises:
        ConfigError: the shape is not one that the network takes.
    """
    divisor = graph.detector.network.size_divisibility
    shape.check(divisor)
    batch = Dim("batch") if shape.batch is None else None
    axes: dict[str, dict[int, Any]] = {"input": {}, "image_sizes": {}}
    if batch is not None:
        axes["input"][0] = axes["image_sizes"][0] = batch
    if shape.size is None:
        axes["input"] |= {2: divisor * Dim("height"), 3: divisor * Dim("width")}
    inputs = example_inputs(graph, shape)
    with torch.no_grad():
        return torch.export.export(
            graph.eval(), (), inputs, dynamic_shapes={name: axes[name] for name in inputs}
        )


def to_onnx(
    program: ExportedProgram, graph: NetworkGraph | DetectorGraph, info: GraphInfo, opset: int
) -> Any:
    """The program as an onnx.ModelProto, with `info` in its metadata.

    Raises:
        ConfigError: the ONNX packages are missing, or the program needs a later opset.
    """
    require("onnxscript")
    graphs = [part.graph for part in program.graph_module.modules() if hasattr(part, "graph")]
    deforms = any("deform_conv2d" in str(node.target) for graph in graphs for node in graph.nodes)
    if deforms and opset < DEFORM_CONV_OPSET:
        raise ConfigError(
            f"This model has deformable convolutions: ONNX' DeformConv needs --opset "
            f"{DEFORM_CONV_OPSET} or later, got {opset}; or --deform-conv grid-sample."
        )
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of constants it keeps
    exported: Any = torch.onnx.export(
        program,
        opset_version=opset,
        dynamo=True,
        verbose=False,
        input_names=list(graph.input_names),
        output_names=list(graph.output_names),
        custom_translation_table=onnx_translation(),
    )
    model = exported.model_proto
    _name_axes(model)
    model.metadata_props.add(key=ENTRY, value=info.to_json())
    return model


def check_opset(opset: int) -> None:
    """
    Raises:
        ConfigError: out of the range.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ConfigError(f"--opset is in {MIN_OPSET} ... {MAX_OPSET}; got {opset}.")


def simplify(model: Any, shape: Sequence[int] | None = None) -> Any:
    """The onnx.ModelProto with constants folded and nodes fused.

    Args:
        shape: (N, 3, H, W) that `input` is fixed to; `image_sizes`, where there is one, follows.

    Raises:
        ConfigError: onnxslim is missing, or the shape does not fit the input.
    """
    onnxslim = require("onnxslim")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    given = []
    if shape is not None:
        _check_fits(model, shape, GraphInfo.from_json(metadata.get(ENTRY), "The graph").divisor)
        given = [f"input:{','.join(map(str, shape))}"]
        if len(model.graph.input) > 1:
            given.append(f"image_sizes:{shape[0]},2")
    slim = onnxslim.slim(model, input_shapes=given or None)
    present = {entry.key for entry in slim.metadata_props}
    for key in metadata.keys() - present:
        slim.metadata_props.add(key=key, value=metadata[key])
    return slim


def _check_fits(model: Any, shape: Sequence[int], divisor: int) -> None:
    """ConfigError where `input` cannot be fixed to a shape."""
    (dims,) = [v.type.tensor_type.shape.dim for v in model.graph.input if v.name == "input"]
    fits = len(shape) == 4 and min(shape) > 0
    if not fits or any(d.dim_value not in (0, s) for d, s in zip(dims, shape, strict=True)):
        raise ConfigError(
            f"--overwrite-input-shape input:{','.join(map(str, shape))} does not fit the input's "
            f"{[dim.dim_value or dim.dim_param for dim in dims]}."
        )
    InputShape(shape[0], (shape[2], shape[3])).check(divisor)


def write_onnx(model: Any, path: Path) -> None:
    """Check the onnx.ModelProto and write it whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    require("onnx").checker.check_model(model)
    write_file(path, model.SerializeToString())


def write_pt2(program: ExportedProgram, info: GraphInfo, path: Path) -> None:
    """Write the program as torch.export.load reads it, with `info` inside.

    Raises:
        CheckpointError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={ENTRY: info.to_json()})
    write_file(path, buffer.getvalue())


def parse_shape(text: str) -> tuple[int, ...]:
    """(32, 3, 800, 1344) of "input:32,3,800,1344".

    Raises:
        ConfigError: it is not written so.
    """
    match = re.fullmatch(r"input:(\d+(?:,\d+)*)", text)
    if match is None:
        raise ConfigError(
            "--overwrite-input-shape is written input:N,3,H,W, input:32,3,800,1344 for example; "
            f"got {text!r}. (image_sizes follows.)"
        )
    return tuple(int(number) for number in match[1].split(","))


def parse_size(text: str) -> tuple[int, int]:
    """(800, 1344) of "800x1344".

    Raises:
        ConfigError: it is not written so, or a side is below 1.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) < 1:
        raise ConfigError(f"--size is HEIGHTxWIDTH, 800x1344 for example; got {text!r}.")
    return size


def require(package: str) -> Any:
    """A package that only deployment needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = "openvino" if package == "openvino" else "deploy"
        raise ConfigError(
            f"This needs the package {package}: pip install 'cvpods-ext[{extra}]'."
        ) from error


def _name_axes(model: Any) -> None:
    """Call the open axes of inputs and outputs batch, height and width; those of the maps
    height_p3, width_p3, ...
    """
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        level = "" if value.name == "input" else f"_{value.name.rpartition('_')[2]}"
        for dim, name in zip(dims, ("batch", "", f"height{level}", f"width{level}"), strict=False):
            if dim.dim_param:
                dim.dim_param = name
