"""Runtimes that open a graph's file and run it on named tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from cvpods.utils.env import processor
from cvpods.utils.errors import CheckpointError, ConfigError, DataError, PodsError
from cvpods_ext.deploy.export import require
from cvpods_ext.deploy.info import ENTRY, GraphInfo
from cvpods_ext.deploy.options import GRAPH_SUFFIXES, PROVIDERS

# onnxruntime's execution providers, by name in PROVIDERS.
_ORT = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
# Stands for an open axis in a shape.
ANY = 0

Feeds = Mapping[str, Tensor]


class Session(ABC):
    """A graph that is ready to run.

    A call takes CPU tensors for a whole batch of the graph's size and returns CPU tensors.

    Attributes:
        info: the description that the file contains.
        shapes: {input name: shape}, with ANY for an open axis.
        device: description of runtime and device for logs, for example "onnxruntime 1.31.1,
            CPUExecutionProvider, ...".
    """

    info: GraphInfo
    shapes: dict[str, tuple[int, ...]]
    device: str

    @abstractmethod
    def __call__(self, feeds: Feeds) -> dict[str, Tensor]:
        """Run the graph once."""

    @abstractmethod
    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Copy `feeds` to the device and return a function that runs the graph on them.

        The function waits until the run has ended. The outputs stay on the device. It serves
        timing.
        """

    @property
    def batch(self) -> int | None:
        """Number of images in a batch; None if the graph takes any number."""
        return self.shapes["input"][0] or None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the input; None if the graph takes any size."""
        height, width = self.shapes["input"][2:]
        return (height, width) if height and width else None


class OnnxSession(Session):
    """An ONNX graph in onnxruntime."""

    def __init__(self, path: Path, provider: str, device: str) -> None:
        ort = require("onnxruntime")
        self.info = _read_info(path)
        providers = _ORT[provider]
        available = ort.get_available_providers()
        if providers[0] not in available:
            raise ConfigError(
                f"The provider {provider!r} needs {providers[0]}, which this onnxruntime does not "
                f"have; it has {', '.join(available)}. On a machine with an NVIDIA GPU: pip "
                "uninstall onnxruntime, then pip install onnxruntime-gpu."
            )
        self.on = "cpu" if provider == "cpu" else "cuda"
        self.index = 0 if provider == "cpu" else _gpu_index(device)
        gpu = {"device_id": self.index}
        settings = {
            "CPUExecutionProvider": {},
            "CUDAExecutionProvider": gpu,
            "TensorrtExecutionProvider": {**gpu, "trt_fp16_enable": self.info.half},
        }
        chosen = [(p, settings[p]) for p in providers if p in available]
        options = ort.SessionOptions()
        options.log_severity_level = 3  # Errors only; its warnings concern its own optimisations.
        try:
            self.session = ort.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:  # onnxruntime's errors do not share a base class.
            raise _opening_error(path, f"onnxruntime {ort.__version__}", error) from error
        used = self.session.get_providers()[0]
        if used != providers[0]:
            raise ConfigError(
                f"onnxruntime could not start {providers[0]} and took {used} instead. Its messages "
                "above give the reason; most often, a library of CUDA or TensorRT is missing."
            )
        self.shapes = {
            value.name: tuple(side if isinstance(side, int) else ANY for side in value.shape)
            for value in self.session.get_inputs()
        }
        where = processor("cpu" if provider == "cpu" else f"cuda:{self.index}")
        self.device = f"onnxruntime {ort.__version__}, {used}, {where}"

    def __call__(self, feeds: Feeds) -> dict[str, Tensor]:
        """Run the graph once."""
        arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in feeds.items()}
        outputs = self.session.run(self.info.outputs, arrays)
        return {n: torch.from_numpy(v) for n, v in zip(self.info.outputs, outputs, strict=True)}

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return a function that runs the graph through onnxruntime's IO binding."""
        binding = self.session.io_binding()
        ort_value = require("onnxruntime").OrtValue
        for name, value in feeds.items():
            on_device = ort_value.ortvalue_from_numpy(value.numpy(), self.on, self.index)
            binding.bind_ortvalue_input(name, on_device)
        for name in self.info.outputs:
            binding.bind_output(name, self.on, self.index)

        def once() -> None:
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return once


class OpenVinoSession(Session):
    """An ONNX graph in OpenVINO on the CPU; a graph in FP16 also computes in float32."""

    def __init__(self, path: Path) -> None:
        openvino = require("openvino")
        core = openvino.Core()
        try:
            model = core.read_model(str(path))
            hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            self.compiled = core.compile_model(model, "CPU", hints)
        except RuntimeError as error:
            raise _opening_error(path, f"OpenVINO {openvino.__version__}", error) from error
        self.info = _read_info(path)
        shapes = {name: self.compiled.input(name).partial_shape for name in self.info.inputs}
        self.shapes = {
            name: tuple(ANY if side.is_dynamic else side.get_length() for side in shape)
            for name, shape in shapes.items()
        }
        release = openvino.__version__.split("-")[0]
        self.device = f"OpenVINO {release}, {processor()}"

    def __call__(self, feeds: Feeds) -> dict[str, Tensor]:
        """Run the graph once."""
        # CompiledModel's own call shares one request among all threads.
        request = self.compiled.create_infer_request()
        outputs = request.infer({name: value.numpy() for name, value in feeds.items()})
        return {name: torch.from_numpy(outputs[name].copy()) for name in self.info.outputs}

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return a function that runs the graph on memory shared with OpenVINO."""
        request = self.compiled.create_infer_request()
        arrays = {name: value.numpy() for name, value in feeds.items()}
        return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)


class TorchSession(Session):
    """A .pt2 in PyTorch, on the device of MODEL.DEVICE."""

    def __init__(self, path: Path, device: str) -> None:
        extra = {ENTRY: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
        except Exception as error:  # zip, json, pickle and torch raise errors without a common base
            raise _opening_error(path, f"torch {torch.__version__}", error) from error
        self.info = GraphInfo.from_json(extra[ENTRY], path)
        if device != "cpu":
            program = move_to_device_pass(program, device)
        self.module = program.module()
        self.on = device
        names = program.graph_signature.user_inputs
        values = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"}
        self.shapes = {
            str(name): tuple(side if isinstance(side, int) else ANY for side in values[name].shape)
            for name in names
        }
        self.device = f"torch {torch.__version__}, {processor(device)}"

    def __call__(self, feeds: Feeds) -> dict[str, Tensor]:
        """Run the graph once.

        Raises:
            DataError: torch.export's graph does not take images of this size.
        """
        given = {name: value.to(self.on) for name, value in feeds.items()}
        try:
            with torch.inference_mode():
                outputs = self.module(**given)
        except (AssertionError, RuntimeError) as error:
            height, width = feeds["input"].shape[2:]
            raise DataError(
                f"This .pt2 does not take {height} x {width} pixels. A .pt2 that was exported for "
                "any size needs at least two cells on every level, which is a limit of "
                f"torch.export; an .onnx takes all sizes. ({_shorten(str(error))})"
            ) from error
        return {n: v.cpu() for n, v in zip(self.info.outputs, outputs, strict=True)}

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return a function that runs the graph and waits for the GPU, if it runs on one."""
        given = {name: value.to(self.on) for name, value in feeds.items()}

        def once() -> None:
            with torch.inference_mode():
                self.module(**given)
            if self.on != "cpu":
                torch.cuda.synchronize()

        return once


def open_session(path: str | Path, provider: str = "auto", device: str = "cpu") -> Session:
    """Open a .onnx or .pt2 file.

    Args:
        provider: one of PROVIDERS. "auto" is "cuda" if `device` is a GPU that onnxruntime supports,
            otherwise "cpu". A .pt2 takes "auto" only.
        device: "cpu", "cuda" or "cuda:1".

    Raises:
        ConfigError: the provider is unknown or missing, or the runtime lacks an operator.
        CheckpointError: the file is missing or damaged, or pods_export did not write it.
    """
    path = Path(path).expanduser()
    if provider not in PROVIDERS:
        raise ConfigError(f"The provider must be one of {', '.join(PROVIDERS)}; got {provider!r}.")
    if path.suffix.lower() not in GRAPH_SUFFIXES:
        raise CheckpointError(
            f"A graph must be a file with the suffix {' or '.join(GRAPH_SUFFIXES)}; got {path}."
        )
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist. pods_export --output {path} writes it.")
    if path.suffix.lower() == ".pt2":
        if provider != "auto":
            raise ConfigError(f"PyTorch runs {path}; the provider {provider!r} takes .onnx only.")
        return TorchSession(path, device)
    if provider == "openvino":
        return OpenVinoSession(path)
    if provider == "auto":
        has_cuda = _ORT["cuda"][0] in require("onnxruntime").get_available_providers()
        provider = "cuda" if device != "cpu" and has_cuda else "cpu"
    return OnnxSession(path, provider, device)


def _read_info(path: Path) -> GraphInfo:
    """Read the description in an ONNX file's metadata."""
    onnx = require("onnx")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, which onnx does not export
        raise CheckpointError(f"{path} is damaged or not an ONNX file: {error}") from error
    entries = {entry.key: entry.value for entry in model.metadata_props}
    return GraphInfo.from_json(entries.get(ENTRY), path)


def _gpu_index(device: str) -> int:
    """Return the index in "cuda:1"; without one, the index of this process's GPU."""
    index = torch.device(device).index
    if index is not None:
        return index
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def _opening_error(path: Path, runtime: str, error: Exception) -> PodsError:
    """Translate a runtime's error on opening a file."""
    text = str(error)
    signs = ("NOT_IMPLEMENTED", "Could not find an implementation", "conversion", "not supported")
    if not any(sign in text for sign in signs):
        return CheckpointError(
            f"{runtime} cannot read {path}: the file is damaged or not a graph.\n{_shorten(text)}"
        )
    operator = next((name for name in ("DeformConv", "GridSample") if name in text), None)
    missing = f"the operator {operator}" if operator else "an operator"
    way_out = ""
    if operator == "DeformConv":
        way_out = " Export with --deform-conv grid-sample, or choose another --provider."
    return ConfigError(
        f"{runtime} cannot run {path}: it lacks {missing}.{way_out}\n{_shorten(text)}"
    )


def _shorten(text: str) -> str:
    """Return a message on one line, cut after 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:300]
