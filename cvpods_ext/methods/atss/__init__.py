"""Adaptive Training Sample Selection (arXiv:1912.02424)."""

from typing import TYPE_CHECKING

from cvpods.utils.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods_ext.methods.atss.assign import atss_assign
    from cvpods_ext.methods.atss.config import ATSSConfig
    from cvpods_ext.methods.atss.detector import ATSS
    from cvpods_ext.methods.atss.loss import AtssTargets, atss_loss, atss_targets

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "cvpods_ext.methods.atss.assign": "atss_assign",
        "cvpods_ext.methods.atss.config": "ATSSConfig",
        "cvpods_ext.methods.atss.detector": "ATSS",
        "cvpods_ext.methods.atss.loss": "AtssTargets atss_loss atss_targets",
    },
)
