from cvpods_ext.configs.atss_config import ATSSConfig
from cvpods_ext.configs.compose import compose

__all__ = ["ATSSConfig", "compose"]
