"""FCOS on a MobileNetV2-FPN pyramid P3-P7 (P6 and P7 from P5)."""

from cvpods.modeling.backbone import build_mobilenetv2_fpn_p3_p7
from cvpods.modeling.meta_arch import FCOSDetector


def build_model(cfg):
    return FCOSDetector.from_config(cfg, backbone=build_mobilenetv2_fpn_p3_p7(cfg))
