"""Feature Alignment in Anchor-Free Object Detection (TCSVT 33(8), 2023)."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods_ext.methods.feature_align.attention import (
        build_mobilenetv2_attention_fpn_p3_p7,
        build_resnet_attention_fpn_p3_p7,
    )
    from cvpods_ext.methods.feature_align.config import FeatureAlignConfig
    from cvpods_ext.methods.feature_align.detector import FeatureAlign
    from cvpods_ext.methods.feature_align.loss import feature_align_loss

__all__ = lazy_names(
    __name__,
    {
        "attention": [
            "build_mobilenetv2_attention_fpn_p3_p7",
            "build_resnet_attention_fpn_p3_p7",
        ],
        "config": ["FeatureAlignConfig"],
        "detector": ["FeatureAlign"],
        "loss": ["feature_align_loss"],
    },
)
