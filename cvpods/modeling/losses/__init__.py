from cvpods.modeling.losses.common import at_least_float32, one_hot
from cvpods.modeling.losses.focal_loss import sigmoid_focal_loss, sigmoid_focal_loss_jit
from cvpods.modeling.losses.iou_loss import iou_loss
from cvpods.modeling.losses.smooth_l1_loss import smooth_l1_loss

__all__ = [
    "at_least_float32",
    "iou_loss",
    "one_hot",
    "sigmoid_focal_loss",
    "sigmoid_focal_loss_jit",
    "smooth_l1_loss",
]
