"""AutoAssign on a ResNet-FPN pyramid P3-P7 (P6 from C5)."""

from cvpods.modeling.backbone import build_resnet_fpn_p3_p7
from cvpods_ext.methods.auto_assign import AutoAssign


def build_model(cfg):
    return AutoAssign.from_config(cfg, backbone=build_resnet_fpn_p3_p7(cfg))
