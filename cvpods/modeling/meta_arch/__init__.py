from cvpods.modeling.meta_arch.dense_detector import DenseDetector, shared_arguments
from cvpods.modeling.meta_arch.dense_head import DenseHead
from cvpods.modeling.meta_arch.fcos import FCOS, FCOSDetector
from cvpods.modeling.meta_arch.retinanet import RetinaNet, RetinaNetDetector

__all__ = [
    "FCOS",
    "DenseDetector",
    "DenseHead",
    "FCOSDetector",
    "RetinaNet",
    "RetinaNetDetector",
    "shared_arguments",
]
