from cvpods_ext.losses.atss import AtssTargets, atss_loss, atss_targets

__all__ = ["AtssTargets", "atss_loss", "atss_targets"]
