"""Backbones and feature pyramids."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.modeling.backbone.backbone import Backbone
    from cvpods.modeling.backbone.fpn import (
        FPN,
        build_mobilenetv2_fpn_p3_p7,
        build_resnet_fpn_backbone,
        build_resnet_fpn_p3_p7,
        build_retinanet_fpn_backbone,
        build_retinanet_mobilenetv2_fpn_backbone,
        build_retinanet_resnet_fpn_backbone,
        build_retinanet_resnet_fpn_p5_backbone,
        build_retinanet_timm_fpn_backbone,
        build_timm_fpn_p3_p7,
    )
    from cvpods.modeling.backbone.mobilenet import (
        MobileNetV2,
        build_mobilenetv2_backbone,
    )
    from cvpods.modeling.backbone.resnet import (
        ResNet,
        build_resnet_backbone,
    )
    from cvpods.modeling.backbone.timm_backbone import (
        TimmBackbone,
        build_timm_backbone,
    )

__all__ = lazy_names(
    __name__,
    {
        "backbone": ["Backbone"],
        "fpn": [
            "FPN",
            "build_mobilenetv2_fpn_p3_p7",
            "build_resnet_fpn_backbone",
            "build_resnet_fpn_p3_p7",
            "build_retinanet_fpn_backbone",
            "build_retinanet_mobilenetv2_fpn_backbone",
            "build_retinanet_resnet_fpn_backbone",
            "build_retinanet_resnet_fpn_p5_backbone",
            "build_retinanet_timm_fpn_backbone",
            "build_timm_fpn_p3_p7",
        ],
        "mobilenet": ["MobileNetV2", "build_mobilenetv2_backbone"],
        "resnet": ["ResNet", "build_resnet_backbone"],
        "timm_backbone": ["TimmBackbone", "build_timm_backbone"],
    },
)
