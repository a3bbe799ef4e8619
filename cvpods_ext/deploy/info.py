"""What a graph's file says of itself, so that it is run as it was exported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import cvpods
from cvpods.configs.config_dict import flatten
from cvpods.utils.errors import CheckpointError

# The entry of an ONNX file's metadata, and the file inside a .pt2, that holds a GraphInfo.
ENTRY = "cvpods"
# What the network is fed with.
INPUT_KEYS = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
# What post-processing reads, beside the method's keys below.
DETECTOR_KEYS = ("MODEL.NMS_TYPE", "MODEL.PLUS_ONE", "TEST.DETECTIONS_PER_IMAGE")
_METHOD_KEYS = ("SCORE_THRESH_TEST", "TOPK_CANDIDATES_TEST", "NMS_THRESH_TEST", "SCORE_TYPE")


@dataclass
class GraphInfo:
    """
    kind: "network" or "detector", see graphs.py.
    detector: the class, "FreeAnchor".
    inputs, outputs: their names, in order.
    divisor: heights and widths of the input are multiples of it.
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
        keys += [key for key in flat if key in DETECTOR_KEYS or _is_of_method(key)]
    return {key: flat[key] for key in keys}


def _is_of_method(key: str) -> bool:
    return key.count(".") == 2 and key.startswith("MODEL.") and key.endswith(_METHOD_KEYS)
