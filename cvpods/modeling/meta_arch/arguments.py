"""Arguments that all dense detectors read from the config, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cvpods.layers import ShapeSpec
from cvpods.layers.shape_spec import strides_of
from cvpods.modeling.backbone import Backbone
from cvpods.structures import LAST_PIXEL, PixelConvention
from cvpods.utils.errors import ConfigError
from cvpods.utils.ranges import Range, check_ranges

# Keys with the same meaning in the group of every method.
RANGES = {
    "NUM_CLASSES": Range(1, 10**6, whole=True),
    "NUM_CONVS": Range(0, 64, whole=True),
    "PRIOR_PROB": Range(0, 1, inside=True),
    "FOCAL_LOSS_ALPHA": Range(0, 1),
    "FOCAL_LOSS_GAMMA": Range(0),
    "REG_WEIGHT": Range(0),
    "SMOOTH_L1_LOSS_BETA": Range(0),
    "SCORE_THRESH_TEST": Range(0, 1),
    "TOPK_CANDIDATES_TEST": Range(1, whole=True),
    "NMS_THRESH_TEST": Range(0, 1),
}


def input_shapes(
    cfg: Any, method: Any, backbone: Backbone, ranges: Mapping[str, Range] | None = None
) -> list[ShapeSpec]:
    """Return the shapes of the maps that a method's head reads, its IN_FEATURES.

    Args:
        method: the method's group of cfg.MODEL.
        ranges: of keys that only this method has.

    Raises:
        ConfigError: a value of the group is out of its range, or IN_FEATURES does not fit.
    """
    name = next(f"MODEL.{key}" for key, group in cfg.MODEL.items() if group is method)
    check_ranges(name, method, {**RANGES, **(ranges or {})})
    shapes = backbone.output_shape()
    known = all(level in shapes for level in method.IN_FEATURES)
    strides = strides_of(shapes[level] for level in method.IN_FEATURES) if known else []
    if not strides or strides != sorted(set(strides)):
        raise ConfigError(
            f"{name}.IN_FEATURES must be some of {list(shapes)}, finest first; got "
            f"{list(method.IN_FEATURES)}."
        )
    return [shapes[level] for level in method.IN_FEATURES]


def shared_arguments(cfg: Any, method: Any, plus_one: bool = False) -> dict[str, Any]:
    """Return DenseDetector's plain arguments, read from the config and the method's group of it.

    Args:
        plus_one: the method supports MODEL.PLUS_ONE.

    Raises:
        ConfigError: MODEL.PLUS_ONE is True, and the method does not support it.
    """
    pixels = PixelConvention.from_config(cfg)
    if pixels is LAST_PIXEL and not plus_one:
        raise ConfigError(
            "MODEL.PLUS_ONE True is for RetinaNet, FreeAnchor and ATSS; set it to False."
        )
    return {
        "pixels": pixels,
        "in_features": method.IN_FEATURES,
        "num_classes": method.NUM_CLASSES,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "score_threshold": method.SCORE_THRESH_TEST,
        "topk_candidates": method.TOPK_CANDIDATES_TEST,
        "nms_threshold": method.NMS_THRESH_TEST,
        "nms_type": cfg.MODEL.NMS_TYPE,
        "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
    }
