"""The pyramids that experiments build on: levels P3 - P7, sources as cfg.MODEL.FPN says."""

from cvpods.modeling.backbone import (
    build_retinanet_mobilenetv2_fpn_backbone as build_mobilenetv2_fpn_p3_p7,
)
from cvpods.modeling.backbone import build_retinanet_resnet_fpn_backbone as build_resnet_fpn_p3_p7

__all__ = ["build_mobilenetv2_fpn_p3_p7", "build_resnet_fpn_p3_p7"]
