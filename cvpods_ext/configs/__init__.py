from cvpods_ext.configs.atss_config import ATSSConfig
from cvpods_ext.configs.auto_assign_config import AutoAssignConfig
from cvpods_ext.configs.compose import compose
from cvpods_ext.configs.feature_align_config import FeatureAlignConfig
from cvpods_ext.configs.free_anchor_config import FreeAnchorConfig

__all__ = ["ATSSConfig", "AutoAssignConfig", "FeatureAlignConfig", "FreeAnchorConfig", "compose"]
