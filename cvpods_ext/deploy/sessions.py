"""Runtimes: a graph's file, opened, is a function from named tensors to named tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from cvpods.utils.env import processor
from cvpods.utils.errors import CheckpointError, ConfigError, DataError
from cvpods_ext.deploy.export import require
from cvpods_ext.deploy.info import ENTRY, GraphInfo

# onnxruntime's execution providers by the names that --provider and TEST.GRAPH.PROVIDER take.
_ORT = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
PROVIDERS = ("auto", *_ORT, "openvino")
FILES = (".onnx", ".pt2")
# What any open axis of an image's height and width, or of the batch, is shown as.
ANY = 0

Feeds = Mapping[str, Tensor]


class Session(ABC):
    """A graph ready to run.

    Attributes:
        info: what the file says of itself.
        shapes: {input name: shape}; ANY where an axis is open.
        device: "onnxruntime 1.31.1, CPUExecutionProvider, ...", for people.

    Call it with CPU tensors, a whole batch of the graph's size; outputs are CPU tensors.
    """

    info: GraphInfo
    shapes: dict[str, tuple[int, ...]]
    device: str

    @abstractmethod
    def __call__(self, feeds: Feeds) -> dict[str, Tensor]:
        """Run once."""

    @abstractmethod
    def bind(self, feeds: Feeds) -> Callable[[], Any]:
        """A function that runs the graph once on `feeds`, which are on the device already, and
        waits for the end; outputs stay there. For timing.
        """

    @property
    def batch(self) -> int | None:
        """Images at once; None where any number goes."""
        return self.shapes["input"][0] or None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the input; None where any goes."""
        height, width = self.shapes["input"][2:]
        return (height, width) if height and width else None


class OnnxSession(Session):
    """By onnxruntime."""

    def __init__(self, path: Path, provider: str, device: str) -> None:
        ort = require("onnxruntime")
        self.info = _read_info(path)
        providers = _ORT[provider]
        available = ort.get_available_providers()
        if providers[0] not in available:
            raise ConfigError(
                f"The provider {provider!r} is {providers[0]}, which this onnxruntime does not "
                f"have (it has {', '.join(available)}). On NVIDIA GPUs: pip uninstall "
                "onnxruntime, then pip install onnxruntime-gpu."
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
        options.log_severity_level = 3  # errors; its warnings are about its own optimisations
        try:
            self.session = ort.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise _refused(path, f"onnxruntime {ort.__version__}", error) from error
        used = self.session.get_providers()[0]
        if used != providers[0]:
            raise ConfigError(
                f"onnxruntime could not start {providers[0]} and took {used}; its messages above "
                "say why (most often CUDA's or TensorRT's libraries are missing)."
            )
        self.shapes = {
            value.name: tuple(side if isinstance(side, int) else ANY for side in value.shape)
            for value in self.session.get_inputs()
        }
        where = processor("cpu" if provider == "cpu" else f"cuda:{self.index}")
        self.device = f"onnxruntime {ort.__version__}, {used}, {where}"

    def __call__(self, feeds: Feeds) -> dict[str, Tensor]:
        arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in feeds.items()}
        found = self.session.run(self.info.outputs, arrays)
        return {n: torch.from_numpy(v) for n, v in zip(self.info.outputs, found, strict=True)}

    def bind(self, feeds: Feeds) -> Callable[[], Any]:
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
    """By OpenVINO, on the CPU, in float32 also where the graph is in FP16."""

    def __init__(self, path: Path) -> None:
        openvino = require("openvino")
        core = openvino.Core()
        try:
            model = core.read_model(str(path))
            hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            self.compiled = core.compile_model(model, "CPU", hints)
        except RuntimeError as error:
            raise _refused(path, f"OpenVINO {openvino.__version__}", error) from error
        self.info = _read_info(path)
        shapes = {name: self.compiled.input(name).partial_shape for name in self.info.inputs}
        self.shapes = {
            name: tuple(ANY if side.is_dynamic else side.get_length() for side in shape)
            for name, shape in shapes.items()
        }
        release = openvino.__version__.split("-")[0]
        self.device = f"OpenVINO {release}, {processor()}"

    def __call__(self, feeds: Feeds) -> dict[str, Tensor]:
        # CompiledModel's own call shares one request between all threads.
        request = self.compiled.create_infer_request()
        found = request.infer({name: value.numpy() for name, value in feeds.items()})
        return {name: torch.from_numpy(found[name].copy()) for name in self.info.outputs}

    def bind(self, feeds: Feeds) -> Callable[[], Any]:
        request = self.compiled.create_infer_request()
        arrays = {name: value.numpy() for name, value in feeds.items()}
        return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)


class TorchSession(Session):
    """A .pt2, by PyTorch: on the device that MODEL.DEVICE names."""

    def __init__(self, path: Path, device: str) -> None:
        extra = {ENTRY: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
        except Exception as error:  # of zip, json, pickle, torch: there is no common base
            raise _refused(path, f"torch {torch.__version__}", error) from error
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
        given = {name: value.to(self.on) for name, value in feeds.items()}
        try:
            with torch.inference_mode():
                found = self.module(**given)
        except (AssertionError, RuntimeError) as error:
            height, width = feeds["input"].shape[2:]
            raise DataError(
                f"This .pt2 does not take {height} x {width} pixels. One that was exported for any "
                "size wants two cells at least on each level, as torch.export has it; an .onnx "
                f"takes all sizes. ({_short(str(error))})"
            ) from error
        return {n: v.cpu() for n, v in zip(self.info.outputs, found, strict=True)}

    def bind(self, feeds: Feeds) -> Callable[[], Any]:
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
        provider: one of PROVIDERS; "auto" is "cuda" on a CUDA device where onnxruntime has it,
            else "cpu". A .pt2 knows "auto" alone.
        device: "cpu", "cuda", "cuda:1".

    Raises:
        ConfigError: unknown or missing provider, or the runtime lacks an operator of the graph.
        CheckpointError: the file is missing, damaged, or none that pods_export wrote.
    """
    path = Path(path).expanduser()
    if provider not in PROVIDERS:
        raise ConfigError(f"The provider is one of {', '.join(PROVIDERS)}; got {provider!r}.")
    if path.suffix.lower() not in FILES:
        raise CheckpointError(f"A graph is a file {' or '.join(FILES)}, not {path}.")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist. pods_export --output {path} writes it.")
    if path.suffix.lower() == ".pt2":
        if provider != "auto":
            raise ConfigError(f"{path} is run by PyTorch; the provider {provider!r} takes .onnx.")
        return TorchSession(path, device)
    if provider == "openvino":
        return OpenVinoSession(path)
    if provider == "auto":
        has_cuda = _ORT["cuda"][0] in require("onnxruntime").get_available_providers()
        provider = "cuda" if device != "cpu" and has_cuda else "cpu"
    return OnnxSession(path, provider, device)


def _read_info(path: Path) -> GraphInfo:
    """What an ONNX file says of itself."""
    onnx = require("onnx")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, which onnx does not name
        raise CheckpointError(f"{path} is damaged or no ONNX file: {error}") from error
    entries = {entry.key: entry.value for entry in model.metadata_props}
    return GraphInfo.from_json(entries.get(ENTRY), path)


def _gpu_index(device: str) -> int:
    """The GPU of "cuda:1", or of this process."""
    index = torch.device(device).index
    if index is not None:
        return index
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def _refused(path: Path, runtime: str, error: Exception) -> Exception:
    """What a runtime's error on opening a file means."""
    text = str(error)
    lacking = ("NOT_IMPLEMENTED", "Could not find an implementation", "conversion", "not supported")
    if any(sign in text for sign in lacking):
        operators = [name for name in ("DeformConv", "GridSample") if name in text]
        way = ""
        if operators[:1] == ["DeformConv"]:
            way = " Export with --deform-conv grid-sample, or choose another --provider."
        what = f"the operator {operators[0]}" if operators else "an operator"
        return ConfigError(f"{runtime} cannot run {path}: it lacks {what}.{way}\n{_short(text)}")
    return CheckpointError(
        f"{runtime} cannot read {path}: it is damaged or no graph.\n{_short(text)}"
    )


def _short(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:300]
