"""Values of every method's group that cannot be used: one message, when the model is built."""

from __future__ import annotations

from typing import Any

import pytest

from cvpods.configs import FCOSConfig, RetinaNetConfig
from cvpods.modeling.backbone.fpn import build_p3_p7_pyramid
from cvpods.modeling.meta_arch import FCOSDetector, RetinaNetDetector
from cvpods.utils.errors import ConfigError
from cvpods_ext.methods.atss import ATSS, ATSSConfig
from cvpods_ext.methods.auto_assign import AutoAssign, AutoAssignConfig
from cvpods_ext.methods.feature_align import (
    FeatureAlign,
    FeatureAlignConfig,
    build_mobilenetv2_attention_fpn_p3_p7,
)
from cvpods_ext.methods.free_anchor import FreeAnchor, FreeAnchorConfig
from tests.cvpods_ext.methods.auto_assign.test_auto_assign_detector import TinyBackbone

METHODS: dict[str, tuple[Any, Any]] = {
    "RETINANET": (RetinaNetConfig, RetinaNetDetector),
    "FCOS": (FCOSConfig, FCOSDetector),
    "FREE_ANCHOR": (FreeAnchorConfig, FreeAnchor),
    "ATSS": (ATSSConfig, ATSS),
    "AUTO_ASSIGN": (AutoAssignConfig, AutoAssign),
    "FEATURE_ALIGN": (FeatureAlignConfig, FeatureAlign),
}
SHARED = {
    "NUM_CLASSES": [0, -3],
    "NUM_CONVS": [-1],
    "PRIOR_PROB": [0.0, 1.0, -0.1, 2.0],
    "FOCAL_LOSS_GAMMA": [-2.0],
    "SCORE_THRESH_TEST": [-1.0, 2.0, None],
    "TOPK_CANDIDATES_TEST": [0, -1, None],
    "NMS_THRESH_TEST": [-0.1, 60.0],
    "IN_FEATURES": [[], ["p3", "p9"], ["p4", "p3"], ["p3", "p3"]],
}
OWN = {
    "FREE_ANCHOR": {
        "FOCAL_LOSS_ALPHA": [-1.0, 2.0],
        "POS_ANCHOR_TOPK": [0],
        "BBOX_THRESHOLD": [1.5],
        "REG_WEIGHT": [-1.0],
    },
    "ATSS": {"ANCHOR_SCALE": [0, -8], "TOPK": [0], "REG_WEIGHT": [-2.0]},
    "AUTO_ASSIGN": {
        "FOCAL_LOSS_ALPHA": [-1.0, 2.0],
        "REG_WEIGHT": [-5.0, None],
        "POINT_OFFSET": [-3.0, None],
    },
    "FEATURE_ALIGN": {"FOCAL_LOSS_ALPHA": [2.0], "REG_WEIGHT": [-5.0], "MDQ": ["free"]},
}
CASES = [
    (method, key, value)
    for method in METHODS
    for key, values in {**SHARED, **OWN.get(method, {})}.items()
    for value in values
]


def build(method: str, **values: Any) -> Any:
    config_class, detector = METHODS[method]
    config = config_class()
    config.MODEL.FPN.OUT_CHANNELS = 32
    group = {"NUM_CLASSES": 3, "NUM_CONVS": 1, **values}
    if method == "FEATURE_ALIGN":
        group = {"ATTENTION": {"ENABLED": False}, **group}
    config.MODEL[method].update({k: v for k, v in group.items() if k != "ATTENTION"})
    if "ATTENTION" in group:
        config.MODEL[method].ATTENTION.update(group["ATTENTION"])
    return detector.from_config(config, build_p3_p7_pyramid(config, TinyBackbone()))


@pytest.mark.parametrize("method", METHODS)
def test_usable_values(method):
    """At the ends of their ranges."""
    values = {"SCORE_THRESH_TEST": 0.0, "NMS_THRESH_TEST": 1.0, "TOPK_CANDIDATES_TEST": 1}
    assert build(method, **values, FOCAL_LOSS_GAMMA=0.0).num_classes == 3


@pytest.mark.parametrize(("method", "key", "value"), CASES, ids=str)
def test_values_out_of_range(method, key, value):
    with pytest.raises(ConfigError) as error:
        build(method, **{key: value})
    message = str(error.value)
    assert f"MODEL.{method}.{key} must be " in message and str(value) in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DIM", 0),
        ("DIM", -8),
        ("DIM", "abc"),
        ("DIM", 256.0),
        ("DIM", 30),
        ("NUM_LAYERS", 0),
        ("NUM_HEADS", 0),
        ("NUM_HEADS", -8),
        ("FEEDFORWARD_DIM", 0),
        ("DROPOUT", -0.1),
        ("DROPOUT", 1.5),
    ],
)
def test_attention_out_of_range(key, value):
    config = FeatureAlignConfig()
    config.MODEL.WEIGHTS = ""
    config.MODEL.FPN.OUT_CHANNELS = 32
    config.MODEL.FEATURE_ALIGN.ATTENTION[key] = value
    with pytest.raises(ConfigError) as error:
        build_mobilenetv2_attention_fpn_p3_p7(config)
    message = str(error.value)
    assert f"MODEL.FEATURE_ALIGN.ATTENTION.{key} must be " in message and str(value) in message


def test_attention_that_the_backbone_does_not_have():
    """A net.py that builds the plain pyramid."""
    with pytest.raises(ConfigError, match="ENABLED is True, but the backbone has no attention"):
        build("FEATURE_ALIGN", ATTENTION={"ENABLED": True})


def test_width_that_group_norm_does_not_take():
    config = AutoAssignConfig()
    config.MODEL.FPN.OUT_CHANNELS = 48
    backbone = build_p3_p7_pyramid(config, TinyBackbone())
    with pytest.raises(ConfigError, match="multiple of 32; got 48 .*FPN.OUT_CHANNELS"):
        AutoAssign.from_config(config, backbone)
