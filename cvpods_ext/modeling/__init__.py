from cvpods_ext.modeling.atss import ATSS
from cvpods_ext.modeling.free_anchor import FreeAnchor
from cvpods_ext.modeling.pyramids import build_mobilenetv2_fpn_p3_p7, build_resnet_fpn_p3_p7

__all__ = ["ATSS", "FreeAnchor", "build_mobilenetv2_fpn_p3_p7", "build_resnet_fpn_p3_p7"]
