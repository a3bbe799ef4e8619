"""ATSS on a ResNet-FPN pyramid P3-P7 (P6 and P7 from P5)."""

from cvpods.modeling.backbone import build_resnet_fpn_p3_p7
from cvpods_ext.methods.atss import ATSS


def build_model(cfg):
    return ATSS.from_config(cfg, backbone=build_resnet_fpn_p3_p7(cfg))
