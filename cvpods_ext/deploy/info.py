"""Description of a graph, stored in its file, so that it runs as it was exported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import cvpods
from cvpods.configs import BaseConfig
from cvpods.configs.config_dict import flatten
from cvpods.utils.errors import CheckpointError
from cvpods.utils.ranges import AUTO

# Key of an ONNX file's metadata, and name of the file inside a .pt2, that hold a GraphInfo.
ENTRY = "cvpods"
# Config keys that decide what the network's input holds.
INPUT_KEYS = ("INPUT.FORMAT", "INPUT.WHITE_LEVEL", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
# Config keys that post-processing reads, in addition to the method's own group.
DETECTOR_KEYS = ("MODEL.NMS_TYPE", "MODEL.PLUS_ONE", "TEST.DETECTIONS_PER_IMAGE")
PRIOR_GROUPS = ("ANCHOR_GENERATOR", "SHIFT_GENERATOR")


@dataclass
class GraphInfo:
    """Description of an exported graph.

    Args:
        kind: "network" or "detector", see graphs.py.
        detector: name of the detector's class, for example "FreeAnchor".
        inputs, outputs: names of the graph's inputs and outputs, in order.
        divisor: heights and widths of the input are multiples of it.
        num_classes: K.
        levels: names of the pyramid's levels.
        anchors: number of anchors or points of one location, for each level.
        half: the graph computes in FP16.
        class_names: one name per class; [] if they are unknown.
        weights: name of the file that the graph was exported from.
        expects: {config key: value} that must hold wherever the graph runs. These keys decide the
            input and, for a "detector", the post-processing that the graph contains.
        version: version of this project.
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
        """Return the description as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, path: str | Path) -> GraphInfo:
        """Read a description that to_json() wrote.

        Args:
            text: the JSON; None if the file has no such entry.
            path: names the file in an error.

        Raises:
            CheckpointError: the text is missing, or is not such a description.
        """
        try:
            values = json.loads(text or "")
            info = cls(**{f.name: values[f.name] for f in fields(cls)})
            lists = info.inputs, info.outputs, info.levels, info.anchors, info.class_names
            if not isinstance(info.expects, dict) or not all(isinstance(v, list) for v in lists):
                raise TypeError("a field has another type")
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path} was not written by pods_export: it lacks the description of its input, "
                "method and classes. Export it again from its weights."
            ) from error
        return info


def expected_of(config: BaseConfig, kind: str) -> dict[str, Any]:
    """Return the keys and values of a config that a graph of this kind depends on."""
    flat: Mapping[str, Any] = dict(flatten(config))
    keys = list(INPUT_KEYS)
    if kind == "detector":
        # The method's group is taken as a whole, including the keys that only training reads: a
        # list of exceptions would become outdated.
        methods = [name for name, group in config.MODEL.items() if _is_method(group)]
        starts = tuple(f"MODEL.{name}." for name in (*methods, *PRIOR_GROUPS))
        keys += [key for key in flat if key in DETECTOR_KEYS or key.startswith(starts)]
    known = [key for key in keys if key in flat and flat[key] != AUTO]
    return {key: flat[key] for key in known if _is_json(flat[key])}


def _is_method(group: Any) -> bool:
    return isinstance(group, Mapping) and "NMS_THRESH_TEST" in group


def _is_json(value: Any) -> bool:
    """Return False for infinity, which FCOS's OBJECT_SIZES_OF_INTEREST contains."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
