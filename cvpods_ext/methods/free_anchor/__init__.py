"""FreeAnchor: Learning to Match Anchors for Visual Object Detection (arXiv:1909.02466)."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods_ext.methods.free_anchor.config import FreeAnchorConfig
    from cvpods_ext.methods.free_anchor.detector import FreeAnchor
    from cvpods_ext.methods.free_anchor.loss import free_anchor_loss

__all__ = lazy_names(
    __name__,
    {
        "config": ["FreeAnchorConfig"],
        "detector": ["FreeAnchor"],
        "loss": ["free_anchor_loss"],
    },
)
