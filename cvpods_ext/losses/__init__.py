from cvpods_ext.losses.atss import AtssTargets, atss_loss, atss_targets
from cvpods_ext.losses.auto_assign import auto_assign_loss
from cvpods_ext.losses.feature_align import feature_align_loss
from cvpods_ext.losses.free_anchor import free_anchor_loss

__all__ = [
    "AtssTargets",
    "atss_loss",
    "atss_targets",
    "auto_assign_loss",
    "feature_align_loss",
    "free_anchor_loss",
]
