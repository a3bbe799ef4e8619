"""Names of torchvision's ResNet and ResNeXt weights, as this project names them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

_RULES = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer([1-4])\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn([123])\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
_Value = TypeVar("_Value")


def rename_torchvision(weights: Mapping[str, _Value]) -> dict[str, _Value]:
    """Rename the state dict of a torchvision ResNet; return any other one as it is.

    For example, layer1.0.bn2.weight becomes res2.0.conv2.norm.weight. The classifier (fc) keeps its
    name.
    """
    if not {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= set(weights):
        return dict(weights)
    renamed = {}
    for key, value in weights.items():
        for pattern, replacement in _RULES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed
