"""Pyramids of the experiments: levels P3 to P7, built from the maps that cfg.MODEL.FPN names."""

from __future__ import annotations

from functools import partial
from typing import Any

from cvpods.layers import ShapeSpec
from cvpods.modeling.backbone import (
    FPN,
    Backbone,
    build_mobilenetv2_backbone,
    build_resnet_backbone,
)
from cvpods.modeling.backbone import (
    build_retinanet_mobilenetv2_fpn_backbone as build_mobilenetv2_fpn_p3_p7,
)
from cvpods.modeling.backbone import build_retinanet_resnet_fpn_backbone as build_resnet_fpn_p3_p7
from cvpods.modeling.backbone import build_retinanet_timm_fpn_backbone as build_timm_fpn_p3_p7
from cvpods.modeling.backbone.fpn import build_p3_p7_pyramid
from cvpods.utils.ranges import Range, check_ranges
from cvpods_ext.modeling.attention import AttentionFPN

__all__ = [
    "build_mobilenetv2_attention_fpn_p3_p7",
    "build_mobilenetv2_fpn_p3_p7",
    "build_resnet_attention_fpn_p3_p7",
    "build_resnet_fpn_p3_p7",
    "build_timm_fpn_p3_p7",
]

ATTENTION_RANGES = {
    "NUM_LAYERS": Range(1, whole=True),
    "NUM_HEADS": Range(1, whole=True),
    "FEEDFORWARD_DIM": Range(1, whole=True),
    "DROPOUT": Range(0, 1),
}


def build_resnet_attention_fpn_p3_p7(cfg: Any) -> FPN:
    """Build a pyramid on a ResNet.

    The top map gets attention if cfg.MODEL.FEATURE_ALIGN.ATTENTION.ENABLED is True.
    """
    return _attention_fpn(cfg, build_resnet_backbone(cfg, _image(cfg)))


def build_mobilenetv2_attention_fpn_p3_p7(cfg: Any) -> FPN:
    """Build the same pyramid on MobileNetV2."""
    return _attention_fpn(cfg, build_mobilenetv2_backbone(cfg, _image(cfg)))


def _image(cfg: Any) -> ShapeSpec:
    return ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))


def _attention_fpn(cfg: Any, bottom_up: Backbone) -> FPN:
    attention = cfg.MODEL.FEATURE_ALIGN.ATTENTION
    if not attention.ENABLED:
        return build_p3_p7_pyramid(cfg, bottom_up)
    ranges = dict(ATTENTION_RANGES)
    if attention.DIM is not None:
        ranges["DIM"] = Range(1, whole=True)
    check_ranges("MODEL.FEATURE_ALIGN.ATTENTION", attention, ranges)
    arguments = {
        "dim": attention.DIM,
        "num_layers": attention.NUM_LAYERS,
        "num_heads": attention.NUM_HEADS,
        "feedforward_dim": attention.FEEDFORWARD_DIM,
        "dropout": attention.DROPOUT,
    }
    return build_p3_p7_pyramid(cfg, bottom_up, partial(AttentionFPN, attention=arguments))
