"""What a graph's file says of itself, so that it is run as it was exported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import cvpods
from cvpods.configs.config_dict import flatten
from cvpods.utils.errors import CheckpointError
from cvpods.utils.ranges import AUTO

# The entry of an ONNX file's metadata, and the file inside a .pt2, that holds a GraphInfo.
ENTRY = "cvpods"
# What the network is fed with.
INPUT_KEYS = ("INPUT.FORMAT", "INPUT.WHITE_LEVEL", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
# What post-processing reads, beside the method's own group.
DETECTOR_KEYS = ("MODEL.NMS_TYPE", "MODEL.PLUS_ONE", "TEST.DETECTIONS_PER_IMAGE")
PRIOR_GROUPS = ("ANCHOR_GENERATOR", "SHIFT_GENERATOR")


@dataclass
class GraphInfo:
    """
    kind: "network" or "detector", see graphs.py.
    detector: the class, "FreeAnchor".
    inputs, outputs: their names, in order.
    divisor: heights and widths of the input are multiples of it.
    num_classes, levels, anchors: K, names of the pyramid's levels, anchors or points of a location
        on each.
    half: computes in FP16.
    class_names: one per class, [] where they are not known.
    weights: name of the file that it was exported from.
    expects: config keys and values that must hold where it is run: what its input is, and of a
        "detector" the post-processing that it contains.
    version: of this project.
    """

    kind: str
    detector: str
    inputs: list[str]
    outputs: list[str]
    divisor: int
    num_classes: int
    levels: list[str]
    anchors: list[int]
    half: bool = False
    class_names: list[str] = field(default_factory=list)
    weights: str = ""
    expects: dict[str, Any] = field(default_factory=dict)
    version: str = cvpods.__version__

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, path: Any) -> GraphInfo:
        """
        Raises:
            CheckpointError: the file `path` says nothing of the kind.
        """
        try:
            values = json.loads(text or "")
            info = cls(**{f.name: values[f.name] for f in fields(cls)})
            lists = info.inputs, info.outputs, info.levels, info.anchors, info.class_names
            if not isinstance(info.expects, dict) or not all(isinstance(v, list) for v in lists):
                raise TypeError("of another type")
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path} was not written by pods_export: it says nothing of its input, method and "
                f"classes. Export it anew from its weights."
            ) from error
        return info


def expected_of(config: Any, kind: str) -> dict[str, Any]:
    """The keys of a config that a graph of this kind depends on, with their values."""
    flat: Mapping[str, Any] = dict(flatten(config))
    keys = list(INPUT_KEYS)
    if kind == "detector":
        # Of the method's group also what only training reads: a list of what is not would age.
        methods = [name for name, group in config.MODEL.items() if _is_method(group)]
        starts = tuple(f"MODEL.{name}." for name in (*methods, *PRIOR_GROUPS))
        keys += [key for key in flat if key in DETECTOR_KEYS or key.startswith(starts)]
    known = [key for key in keys if key in flat and flat[key] != AUTO]
    return {key: flat[key] for key in known if _is_json(flat[key])}


def _is_method(group: Any) -> bool:
    return isinstance(group, Mapping) and "NMS_THRESH_TEST" in group


def _is_json(value: Any) -> bool:
    """Not so: infinity, in the ranges of sizes that FCOS trains its levels for."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
