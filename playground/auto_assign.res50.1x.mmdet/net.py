"""AutoAssign on a ResNet-FPN pyramid P3-P7 (P6 from C5)."""

from cvpods_ext.modeling import AutoAssign, build_resnet_fpn_p3_p7


def build_model(cfg):
    return AutoAssign.from_config(cfg, backbone=build_resnet_fpn_p3_p7(cfg))
