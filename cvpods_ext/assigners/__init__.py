from cvpods_ext.assigners.assignment import BACKGROUND, IGNORE, Assignment
from cvpods_ext.assigners.atss import atss_assign
from cvpods_ext.assigners.max_iou import max_iou_assign
from cvpods_ext.assigners.scale_range import scale_range_assign
from cvpods_ext.assigners.topk_iou import topk_iou_assign

__all__ = [
    "BACKGROUND",
    "IGNORE",
    "Assignment",
    "atss_assign",
    "max_iou_assign",
    "scale_range_assign",
    "topk_iou_assign",
]
