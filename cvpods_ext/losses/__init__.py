from cvpods_ext.losses.atss import AtssTargets, atss_loss, atss_targets
from cvpods_ext.losses.free_anchor import free_anchor_loss

__all__ = ["AtssTargets", "atss_loss", "atss_targets", "free_anchor_loss"]
