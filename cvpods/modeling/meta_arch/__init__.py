from cvpods.modeling.meta_arch.arguments import input_shapes, shared_arguments
from cvpods.modeling.meta_arch.dense_detector import DenseDetector
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
    "input_shapes",
    "shared_arguments",
]
