"""RetinaNet on a ResNet-FPN pyramid P3-P7."""

from cvpods.modeling.backbone import build_resnet_fpn_p3_p7
from cvpods.modeling.meta_arch.retinanet import RetinaNetDetector


def build_model(cfg):
    return RetinaNetDetector.from_config(cfg, backbone=build_resnet_fpn_p3_p7(cfg))
