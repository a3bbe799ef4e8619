"""FeatureAlign on a MobileNetV2-FPN pyramid P3-P7 (P6 and P7 from P5)."""

from cvpods_ext.methods.feature_align import FeatureAlign, build_mobilenetv2_attention_fpn_p3_p7


def build_model(cfg):
    return FeatureAlign.from_config(cfg, backbone=build_mobilenetv2_attention_fpn_p3_p7(cfg))
