from cvpods_ext.modeling.atss import ATSS
from cvpods_ext.modeling.auto_assign import AutoAssign
from cvpods_ext.modeling.feature_align import FeatureAlign
from cvpods_ext.modeling.free_anchor import FreeAnchor
from cvpods_ext.modeling.pyramids import (
    build_mobilenetv2_attention_fpn_p3_p7,
    build_mobilenetv2_fpn_p3_p7,
    build_resnet_attention_fpn_p3_p7,
    build_resnet_fpn_p3_p7,
    build_timm_fpn_p3_p7,
)

__all__ = [
    "ATSS",
    "AutoAssign",
    "FeatureAlign",
    "FreeAnchor",
    "build_mobilenetv2_attention_fpn_p3_p7",
    "build_mobilenetv2_fpn_p3_p7",
    "build_resnet_attention_fpn_p3_p7",
    "build_resnet_fpn_p3_p7",
    "build_timm_fpn_p3_p7",
]
