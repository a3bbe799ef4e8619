"""Network that a file of weights fits, derived from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from cvpods.modeling.backbone import build_resnet_fpn_p3_p7
from cvpods_ext.convert.layouts import own_method
from cvpods_ext.methods.atss import ATSS, ATSSConfig
from cvpods_ext.methods.auto_assign import AutoAssign, AutoAssignConfig
from cvpods_ext.methods.free_anchor import FreeAnchor, FreeAnchorConfig

# {number of blocks of res2 ... res5: depth}, for bottlenecks and for basic blocks.
_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_BASIC_DEPTHS = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
_ConfigClass: TypeAlias = type[FreeAnchorConfig] | type[ATSSConfig] | type[AutoAssignConfig]
_DetectorClass: TypeAlias = type[FreeAnchor] | type[ATSS] | type[AutoAssign]
# {method: (config class, detector, group of MODEL)} of a network with the method's tensors.
_NETWORKS: dict[str, tuple[_ConfigClass, _DetectorClass, str]] = {
    "retinanet": (FreeAnchorConfig, FreeAnchor, "FREE_ANCHOR"),
    "fcos": (ATSSConfig, ATSS, "ATSS"),
    "auto_assign": (AutoAssignConfig, AutoAssign, "AUTO_ASSIGN"),
}
BACKBONE = "backbone.bottom_up."


def expected_shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]] | None:
    """Return {name: shape} for every tensor of the detector that the weights belong to.

    Args:
        weights: the tensors under this project's names.

    Returns:
        The shapes; None if the detector is not a ResNet pyramid with the head of RetinaNet, FCOS or
        AutoAssign.
    """
    if any(value.dim() == 3 for name, value in weights.items() if name == "mu"):
        return None  # FeatureAlign, whose variants the tensors do not reveal
    try:
        method = own_method(weights)
        config_class, detector, group = _NETWORKS[method]
        config = config_class()
        config.override({**_backbone_keys(weights), **_head_keys(weights, group)})
        with torch.device("meta"):
            model = detector.from_config(config, build_resnet_fpn_p3_p7(config))
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return None
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _backbone_keys(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the config keys of the backbone and the pyramid."""
    blocks = [_count(weights, rf"{BACKBONE}res{k}\.(\d+)\.conv1\.weight") for k in range(2, 6)]
    stages = [f"res{k}" for k, number in zip(range(2, 6), blocks, strict=True) if number]
    middle = weights[f"{BACKBONE}res2.0.conv2.weight"]
    bottleneck = f"{BACKBONE}res2.0.conv3.weight" in weights
    groups = middle.shape[0] // middle.shape[1]
    levels = _laterals(weights)
    laterals = [f"res{k}" for k in levels]
    channels = weights[f"backbone.fpn_lateral{levels[-1]}.weight"].shape[0]
    from_pyramid = weights["backbone.top_block.p6.weight"].shape[1] == channels
    has_counter = f"{BACKBONE}stem.conv1.norm.num_batches_tracked" in weights
    deform = [
        any(re.match(rf"{BACKBONE}res{k}\.\d+\.conv2_offset", name) for name in weights)
        for k in range(2, 6)
    ]
    keys = {
        "DEPTH": _depth(blocks, bottleneck),
        "RES2_OUT_CHANNELS": 256 if bottleneck else 64,
        "NUM_GROUPS": groups,
        "WIDTH_PER_GROUP": middle.shape[0] // groups,
        "NORM": "EvalBN" if has_counter else "FrozenBN",
        "OUT_FEATURES": [stage for stage in stages if stage in laterals],
        "DEFORM_ON_PER_STAGE": deform,
        "DEFORM_MODULATED": True,
    }
    return {
        **{f"MODEL.RESNETS.{key}": value for key, value in keys.items()},
        "MODEL.FPN.IN_FEATURES": laterals,
        "MODEL.FPN.OUT_CHANNELS": channels,
        "MODEL.FPN.BLOCK_IN_FEATURES": f"p{levels[-1]}" if from_pyramid else laterals[-1],
        "MODEL.BACKBONE.FREEZE_AT": 0,
    }


def _head_keys(weights: Mapping[str, Tensor], group: str) -> dict[str, Any]:
    """Return the config keys of the head, which are in this group of MODEL."""
    boxes = weights["head.bbox_pred.weight"]
    anchors = boxes.shape[0] // 4
    convs = [
        name
        for name, value in weights.items()
        if re.fullmatch(r"head\.cls_subnet\.\d+\.(conv\.)?weight", name) and value.dim() == 4
    ]
    levels = _laterals(weights)
    keys: dict[str, Any] = {
        "NUM_CLASSES": weights["head.cls_score.weight"].shape[0] // anchors,
        "NUM_CONVS": len(convs),
        "IN_FEATURES": [f"p{levels[0] + level}" for level in range(len(levels) + 2)],
    }
    if group == "ATSS":
        keys["USE_DCN_IN_TOWER"] = any(".conv.weight" in name for name in convs)
    result = {f"MODEL.{group}.{key}": value for key, value in keys.items()}
    if group == "FREE_ANCHOR":
        result[f"MODEL.{group}.NORM"] = "GN" if "head.cls_subnet.1.weight" in weights else ""
        result["MODEL.ANCHOR_GENERATOR.SIZES"] = [[32.0] * anchors]
        result["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"] = [[1.0]]
    return result


def _laterals(weights: Mapping[str, Tensor]) -> list[int]:
    """Return the pyramid's levels that come from the backbone, for example [3, 4, 5]."""
    return [k for k in range(2, 6) if f"backbone.fpn_lateral{k}.weight" in weights]


def _depth(blocks: list[int], bottleneck: bool) -> int:
    """Return the depth whose stages have these numbers of blocks; 0 means a missing stage.

    Raises:
        IndexError: no depth has them.
    """
    known = _DEPTHS if bottleneck else _BASIC_DEPTHS
    present = [number for number in blocks if number]
    depths = [d for b, d in known.items() if list(b[: len(present)]) == present]
    return depths[0]


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Return the number of different values of a pattern's group among the names."""
    matches = (re.fullmatch(pattern, name) for name in weights)
    return len({match[1] for match in matches if match})
