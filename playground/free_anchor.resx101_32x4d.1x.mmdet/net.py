"""FreeAnchor on a ResNet-FPN pyramid P3-P7 (P6 from C5)."""

from cvpods_ext.modeling import FreeAnchor, build_resnet_fpn_p3_p7


def build_model(cfg):
    return FreeAnchor.from_config(cfg, backbone=build_resnet_fpn_p3_p7(cfg))
