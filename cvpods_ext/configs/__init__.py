from cvpods_ext.configs.atss_config import ATSSConfig
from cvpods_ext.configs.compose import compose
from cvpods_ext.configs.free_anchor_config import FreeAnchorConfig

__all__ = ["ATSSConfig", "FreeAnchorConfig", "compose"]
