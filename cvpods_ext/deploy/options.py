"""Options of the deployment commands and their checks, without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cvpods.utils.errors import ConfigError

FORMATS = ("onnx", "pt2")
GRAPH_SUFFIXES = tuple(f".{name}" for name in FORMATS)
# Ways to compute deformable convolutions in ONNX: by DeformConv, or by GridSample.
DEFORM_CONVS = ("operator", "grid-sample")
MIN_OPSET, MAX_OPSET = 18, 23
# Values of --provider and TEST.GRAPH.PROVIDER.
PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "openvino")
# Values of --resize and TEST.GRAPH.RESIZE, with the names of their transforms.
RESIZES = {"fit": "ResizeToFit", "stretch": "Resize"}
# Runs of a speed measurement before the timed ones, and timed runs.
WARMUP, RUNS = 3, 100


@dataclass(frozen=True)
class InputShape:
    """Shape of a graph's input; None leaves an axis open.

    Args:
        batch: number of images.
        size: (height, width), multiples of the backbone's size_divisibility.
    """

    batch: int | None = None
    size: tuple[int, int] | None = None

    def check(self, divisor: int) -> None:
        """Check the batch and the size against a network.

        Args:
            divisor: heights and widths must be multiples of it.

        Raises:
            ConfigError: the batch is below 1, or a side is not a multiple of `divisor`.
        """
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"--batch must be at least 1, or 'dynamic'; got {self.batch}.")
        if self.size is None:
            return
        if any(side % divisor for side in self.size):
            nearest = "x".join(str(max(round(side / divisor), 1) * divisor) for side in self.size)
            given = "x".join(map(str, self.size))
            raise ConfigError(
                "The height and the width of this network's input must be multiples of "
                f"{divisor}, for example {nearest}; got {given}."
            )


@dataclass(frozen=True)
class ExportOptions:
    """Options of one export.

    Args:
        output: the file to write; its suffix must be that of `format`.
        format: one of FORMATS.
        opset: version of ONNX' operators, MIN_OPSET to MAX_OPSET.
        shape: shape of the graph's input.
        half: compute in FP16, except for the parts that precision.py lists.
        with_postprocess: export the whole detector instead of its network.
        simplify: fold constants and fuse nodes of the ONNX graph.
        simplified_shape: (N, 3, H, W) that simplification fixes the input to; None keeps `shape`.
        deform_conv: one of DEFORM_CONVS.
        verify: run the file afterwards, and compare its outputs with those of PyTorch.

    Raises:
        ConfigError: two options contradict each other, or the opset is out of range.
    """

    output: Path
    format: str = "onnx"
    opset: int = 20
    shape: InputShape = InputShape()
    half: bool = False
    with_postprocess: bool = False
    simplify: bool = False
    simplified_shape: tuple[int, ...] | None = None
    deform_conv: str = "operator"
    verify: bool = False

    def __post_init__(self) -> None:
        if self.output.suffix != f".{self.format}":
            raise ConfigError(
                f"--output must end in .{self.format}, the suffix of --format {self.format}; "
                f"got {self.output}."
            )
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise ConfigError(
                f"--opset must be between {MIN_OPSET} and {MAX_OPSET}; got {self.opset}."
            )
        if self.format == "pt2" and self.simplify:
            raise ConfigError(
                "--simplify works on ONNX only. For a .pt2 of fixed shape, give numbers as --batch "
                "and --size."
            )
        if self.simplified_shape and not self.simplify:
            raise ConfigError("--overwrite-input-shape needs --simplify.")


def parse_batch(text: str) -> int | None:
    """Return the number that --batch gives; None for "dynamic".

    Raises:
        ConfigError: the text is neither.
    """
    if text == "dynamic":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--batch must be a number or 'dynamic'; got {text!r}.") from None


def parse_size(text: str) -> tuple[int, int]:
    """Return (800, 1344) for "800x1344".

    Raises:
        ConfigError: the text has another form, or a side is below 1.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) < 1:
        raise ConfigError(f"--size must be HEIGHTxWIDTH, for example 800x1344; got {text!r}.")
    return size


def parse_shape(text: str) -> tuple[int, ...]:
    """Return (32, 3, 800, 1344) for "input:32,3,800,1344".

    Raises:
        ConfigError: the text has another form.
    """
    match = re.fullmatch(r"input:(\d+(?:,\d+)*)", text)
    if match is None:
        raise ConfigError(
            "--overwrite-input-shape must be input:N,3,H,W, for example input:32,3,800,1344; got "
            f"{text!r}. The shape of image_sizes follows from it."
        )
    return tuple(int(number) for number in match[1].split(","))
