"""Loss functions that several detectors share."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.modeling.losses.common import (
        at_least_float32,
        one_hot,
    )
    from cvpods.modeling.losses.focal_loss import (
        sigmoid_focal_loss,
        sigmoid_focal_loss_jit,
    )
    from cvpods.modeling.losses.iou_loss import iou_loss
    from cvpods.modeling.losses.smooth_l1_loss import smooth_l1_loss

__all__ = lazy_names(
    __name__,
    {
        "common": ["at_least_float32", "one_hot"],
        "focal_loss": ["sigmoid_focal_loss", "sigmoid_focal_loss_jit"],
        "iou_loss": ["iou_loss"],
        "smooth_l1_loss": ["smooth_l1_loss"],
    },
)
