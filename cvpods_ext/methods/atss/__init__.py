"""Adaptive Training Sample Selection (arXiv:1912.02424)."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods_ext.methods.atss.assign import atss_assign
    from cvpods_ext.methods.atss.config import ATSSConfig
    from cvpods_ext.methods.atss.detector import ATSS
    from cvpods_ext.methods.atss.loss import AtssTargets, atss_loss, atss_targets

__all__ = lazy_names(
    __name__,
    {
        "assign": ["atss_assign"],
        "config": ["ATSSConfig"],
        "detector": ["ATSS"],
        "loss": ["AtssTargets", "atss_loss", "atss_targets"],
    },
)
