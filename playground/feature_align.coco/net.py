"""FeatureAlign on a ResNet-FPN pyramid P3-P7 (P6 and P7 from P5), with attention if it is on."""

from cvpods_ext.methods.feature_align import FeatureAlign, build_resnet_attention_fpn_p3_p7


def build_model(cfg):
    return FeatureAlign.from_config(cfg, backbone=build_resnet_attention_fpn_p3_p7(cfg))
