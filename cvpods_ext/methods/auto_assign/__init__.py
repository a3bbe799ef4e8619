"""AutoAssign: Differentiable Label Assignment for Dense Object Detection (arXiv:2007.03496)."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods_ext.methods.auto_assign.config import AutoAssignConfig
    from cvpods_ext.methods.auto_assign.detector import AutoAssign
    from cvpods_ext.methods.auto_assign.loss import auto_assign_loss

__all__ = lazy_names(
    __name__,
    {
        "config": ["AutoAssignConfig"],
        "detector": ["AutoAssign"],
        "loss": ["auto_assign_loss"],
    },
)
