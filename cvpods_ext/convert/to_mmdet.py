"""Conversion of this project's weights to mmdetection's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from cvpods.utils.errors import CheckpointError
from cvpods_ext.convert.conversion import NOT_LEARNED, Conversion
from cvpods_ext.convert.heads import reorder_anchors
from cvpods_ext.convert.layouts import MMDET, MMDET_METHODS, own_method


def to_mmdet(weights: Mapping[str, Tensor], method: str) -> Conversion:
    """Convert the weights of a detector to mmdetection's names and its order of anchors.

    Most of mmdetection's heads have no biases before a norm; biases of 0 are left out. convert()
    adds them again, so that convert(to_mmdet(weights)) is the identity on all learned tensors.

    Args:
        method: one of MMDET_METHODS.

    Raises:
        CheckpointError: mmdetection does not have the method, or the weights belong to another.
    """
    if method not in MMDET_METHODS:
        raise CheckpointError(
            f"A method of mmdetection must be one of {', '.join(MMDET_METHODS)}; got {method!r}."
        )
    own = own_method(weights)
    if own != MMDET_METHODS[method]:
        raise CheckpointError(
            f"These are not weights of {method}, but of {own} or a method with the same names."
        )
    norm = "head.cls_subnet.1.weight" in weights
    table = MMDET.rules(method, norm)
    result = Conversion({}, "cvpods", method, checked=True)
    weights = dict(weights)
    if reorder_anchors(weights, to_ratio_major=True):
        result.notes.append("The order of anchors was changed to by ratio, then size.")
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
                    f"{name} is not 0, but mmdetection's ATSSHead has no such bias. It will ignore "
                    "the bias, and its outputs will differ."
                )
        theirs = next((t for rule in table if (t := rule.to_theirs(_plain_name(name)))), None)
        if theirs is None:
            result.unused[name] = tuple(value.shape)
            continue
        result.weights[theirs] = value.reshape(()) if name.endswith(".scale") else value
        result.used[name] = theirs
    return result


def _plain_name(name: str) -> str:
    """Rename X.conv and X.offset of a tower's deformable convolution to X and X.conv_offset."""
    if not name.startswith("head."):
        return name
    return name.replace(".conv.", ".").replace(".offset.", ".conv_offset.")


def _is_bias_before_norm(name: str) -> bool:
    """Return True for the bias of a tower's convolution with index 0, 3, 6 or 9."""
    match = re.fullmatch(r"head\.(?:cls|bbox)_subnet\.(\d+)\.(?:conv\.)?bias", name)
    return match is not None and int(match[1]) % 3 == 0
