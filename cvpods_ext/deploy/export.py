"""Writing of graphs: torch.export, then an ONNX model or a .pt2 file."""

from __future__ import annotations

import importlib
import io
import logging
from collections.abc import Sequence
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
from cvpods_ext.deploy.options import ExportOptions, InputShape

# The first opset with DeformConv.
DEFORM_CONV_OPSET = 19
# Size of the example that traces a graph of any size. Its maps have sides of at least two cells.
_EXAMPLE = (256, 384)


def write_graph(
    graph: NetworkGraph | DetectorGraph, info: GraphInfo, options: ExportOptions
) -> None:
    """Trace a graph and write it to options.output.

    Raises:
        ConfigError: the options do not fit the network, or a package is missing.
        CheckpointError: the file cannot be written.
    """
    program = export_program(graph, options.shape)
    if options.format == "pt2":
        write_pt2(program, info, options.output)
        return
    model = to_onnx(program, graph, info, options.opset)
    if options.simplify:
        model = simplify(model, options.simplified_shape)
    write_onnx(model, options.output)


def example_inputs(graph: NetworkGraph | DetectorGraph, shape: InputShape) -> dict[str, Tensor]:
    """Return inputs of zeros for tracing; open axes get several images and cells."""
    batch = shape.batch or 2
    height, width = shape.size or _EXAMPLE
    inputs = {
        "input": torch.zeros(batch, 3, height, width),
        "image_sizes": torch.tensor([[height, width]]).repeat(batch, 1),
    }
    return {name: inputs[name] for name in graph.input_names}


def export_program(graph: NetworkGraph | DetectorGraph, shape: InputShape) -> ExportedProgram:
    """Trace the graph in evaluation mode, for inputs of `shape`.

    Raises:
        ConfigError: the network does not take this shape.
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
    """Convert the program to an onnx.ModelProto that holds `info` in its metadata.

    Raises:
        ConfigError: the ONNX packages are missing, or the program needs a later opset.
    """
    require("onnxscript")
    graphs = [part.graph for part in program.graph_module.modules() if hasattr(part, "graph")]
    deforms = any("deform_conv2d" in str(node.target) for graph in graphs for node in graph.nodes)
    if deforms and opset < DEFORM_CONV_OPSET:
        raise ConfigError(
            "This model has deformable convolutions, so --opset must be at least "
            f"{DEFORM_CONV_OPSET}, the first with DeformConv; got {opset}. Give a later opset, or "
            "--deform-conv grid-sample."
        )
    # onnxscript warns about constants that it does not fold.
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
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


def simplify(model: Any, shape: Sequence[int] | None = None) -> Any:
    """Return the onnx.ModelProto with folded constants and fused nodes.

    Args:
        shape: (N, 3, H, W) that `input` is fixed to. `image_sizes`, if the graph has it, becomes
            (N, 2).

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
    """Raise ConfigError if `input` cannot be fixed to the shape."""
    (dims,) = [v.type.tensor_type.shape.dim for v in model.graph.input if v.name == "input"]
    fits = len(shape) == 4 and min(shape) > 0
    if not fits or any(d.dim_value not in (0, s) for d, s in zip(dims, shape, strict=True)):
        raise ConfigError(
            f"--overwrite-input-shape input:{','.join(map(str, shape))} does not fit the input's "
            f"shape {[dim.dim_value or dim.dim_param for dim in dims]}."
        )
    InputShape(shape[0], (shape[2], shape[3])).check(divisor)


def write_onnx(model: Any, path: Path) -> None:
    """Check the onnx.ModelProto and write it atomically.

    Raises:
        CheckpointError: the file cannot be written.
    """
    require("onnx").checker.check_model(model)
    write_file(path, model.SerializeToString())


def write_pt2(program: ExportedProgram, info: GraphInfo, path: Path) -> None:
    """Write the program, with `info` inside, in the format of torch.export.load.

    Raises:
        CheckpointError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={ENTRY: info.to_json()})
    write_file(path, buffer.getvalue())


def require(package: str) -> Any:
    """Import a package that only deployment needs.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = "openvino" if package == "openvino" else "deploy"
        raise ConfigError(
            f"This needs the package {package}: pip install 'cvpods-ext[{extra}]'."
        ) from error


def _name_axes(model: Any) -> None:
    """Name the open axes of inputs and outputs.

    The input's are batch, height and width; those of a level's maps are batch, height_p3 and
    width_p3.
    """
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        level = "" if value.name == "input" else f"_{value.name.rpartition('_')[2]}"
        for dim, name in zip(dims, ("batch", "", f"height{level}", f"width{level}"), strict=False):
            if dim.dim_param:
                dim.dim_param = name
