"""Differences between the heads of frameworks: names, order of anchors, classes, biases."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cvpods.utils.errors import CheckpointError
from cvpods_ext.convert.layouts import MAX_CONVS

# The only number of anchors whose order is known to differ between frameworks: 3 sizes x 3 ratios.
NUM_SIZES = NUM_RATIOS = 3
# torchvision has a class for each id up to 90. These ids are not categories of COCO.
UNUSED_IDS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def deformable_names(names: Mapping[str, Tensor]) -> dict[str, str]:
    """Return {name: new name} for the deformable convolutions in the towers.

    mmdetection has X.weight and X.conv_offset; this project has X.conv.weight and X.offset.
    """
    renamed = {}
    for name in names:
        if name.startswith("head.") and ".conv_offset." in name:
            renamed[name] = name.replace(".conv_offset.", ".offset.")
            module = name.partition(".conv_offset.")[0]
            renamed |= {f"{module}.{leaf}": f"{module}.conv.{leaf}" for leaf in ("weight", "bias")}
    return renamed


def num_anchors(weights: Mapping[str, Tensor]) -> int:
    """Return the number of anchors of a location; 0 without a head."""
    boxes = weights.get("head.bbox_pred.weight")
    return 0 if boxes is None else boxes.shape[0] // 4


def reorder_anchors(weights: dict[str, Tensor], *, to_ratio_major: bool) -> bool:
    """Change the order of the 9 anchors of the predictors, in place.

    Args:
        to_ratio_major: change from by size, then ratio, to by ratio, then size; otherwise the
            reverse.

    Returns:
        True if the order was changed; False for fewer than 2 anchors, which have no order.

    Raises:
        CheckpointError: the order of this number of anchors is unknown.
    """
    anchors = num_anchors(weights)
    if anchors < 2:
        return False
    if anchors != NUM_SIZES * NUM_RATIOS:
        raise CheckpointError(
            f"Predictors of {anchors} anchors cannot be converted: their order is only known for 1 "
            "anchor, and for 9 anchors of 3 sizes x 3 ratios."
        )
    order = torch.arange(anchors).view(NUM_RATIOS, NUM_SIZES).T.reshape(-1)
    if to_ratio_major:
        order = order.argsort()
    for part in ("cls_score", "bbox_pred"):
        for leaf in ("weight", "bias"):
            name = f"head.{part}.{leaf}"
            weights[name] = weights[name].unflatten(0, (anchors, -1))[order].flatten(0, 1)
    return True


def keep_categories(weights: dict[str, Tensor]) -> bool:
    """Keep the 80 categories of COCO among torchvision's 91 classes, in place.

    Returns:
        True if there were 91 classes.
    """
    anchors = num_anchors(weights)
    if not anchors or weights["head.cls_score.bias"].shape[0] != 91 * anchors:
        return False
    kept = [index for index in range(91) if index not in UNUSED_IDS]
    for leaf in ("weight", "bias"):
        name = f"head.cls_score.{leaf}"
        classes = weights[name].unflatten(0, (anchors, -1))
        weights[name] = classes[:, kept].flatten(0, 1)
    return True


def missing_constants(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that other frameworks' heads do without.

    These are the biases of convolutions before a norm (0) and the scales of the levels (1).
    """
    added = {}
    for tower in ("cls", "bbox"):
        for index in range(0, 3 * MAX_CONVS, 3):
            module = f"head.{tower}_subnet.{index}"
            norm = weights.get(f"head.{tower}_subnet.{index + 1}.weight")
            if f"{module}.conv.weight" in weights:  # a deformable convolution
                module = f"{module}.conv"
            bias = f"{module}.bias"
            if norm is not None and f"{module}.weight" in weights and bias not in weights:
                added[bias] = torch.zeros_like(norm)
    has_scales = any(name.startswith("head.scales.") for name in weights)
    if "head.centerness.weight" in weights and not has_scales:
        added |= {f"head.scales.{level}.scale": torch.ones(1) for level in range(5)}
    return added
