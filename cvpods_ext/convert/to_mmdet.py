"""This project's weights under mmdetection's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from cvpods.utils.errors import CheckpointError
from cvpods_ext.convert.conversion import NOT_LEARNED, Conversion, reorder_anchors
from cvpods_ext.convert.layouts import MMDET, own_method

# Methods of mmdetection, and the one whose head has tensors of the same names here.
METHODS = {
    "retinanet": "retinanet",
    "free_anchor": "retinanet",
    "fcos": "fcos",
    "atss": "fcos",
    "auto_assign": "auto_assign",
}


def to_mmdet(weights: Mapping[str, Tensor], method: str) -> Conversion:
    """Weights of a detector under mmdetection's names, in its order of anchors.

    Biases of 0 before a norm, which most of its heads do without, are left out; convert() fills
    them in again, so that convert(to_mmdet(weights)) is the identity on all that is learned.

    Args:
        method: one of METHODS.

    Raises:
        CheckpointError: mmdetection has no such method, or the weights are of another.
    """
    if method not in METHODS:
        raise CheckpointError(f"mmdetection has {', '.join(METHODS)}; not {method!r}.")
    if own_method(weights) != METHODS[method]:
        raise CheckpointError(
            f"These are not weights of {method}, but of {own_method(weights)} or its like."
        )
    norm = "head.cls_subnet.1.weight" in weights
    table = MMDET.rules(method, norm)
    result = Conversion({}, "cvpods", method, checked=True)
    weights = dict(weights)
    if reorder_anchors(weights, to_ratio_major=True):
        result.notes.append("Anchors of a location: from by size, then ratio, to by ratio.")
    for name, value in weights.items():
        if name.startswith(NOT_LEARNED):
            result.dropped.append(name)
            continue
        if norm and _is_bias_before_norm(name):
            if not value.any():
                result.dropped.append(f"{name} (0)")
                continue
            if method == "atss":
                result.notes.append(
                    f"{name} is not 0, and mmdetection's ATSSHead has no such bias: it will ignore "
                    "it, and its outputs will differ."
                )
        theirs = next((t for rule in table if (t := rule.to_theirs(_plain(name)))), None)
        if theirs is None:
            result.unused[name] = tuple(value.shape)
            continue
        result.weights[theirs] = value.reshape(()) if name.endswith(".scale") else value
        result.used[name] = theirs
    return result


def _plain(name: str) -> str:
    """A deformable convolution of a tower, X.conv and X.offset, is X and X.conv_offset there."""
    if not name.startswith("head."):
        return name
    return name.replace(".conv.", ".").replace(".offset.", ".conv_offset.")


def _is_bias_before_norm(name: str) -> bool:
    """Of a tower's convolution, whose indices are 0, 3, 6, 9 where norms follow."""
    match = re.fullmatch(r"head\.(?:cls|bbox)_subnet\.(\d+)\.(?:conv\.)?bias", name)
    return match is not None and int(match[1]) % 3 == 0
