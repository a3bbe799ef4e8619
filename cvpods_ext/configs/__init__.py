"""compose(), and the config classes of the methods."""

from typing import TYPE_CHECKING

from cvpods.utils.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods_ext.configs.atss_config import ATSSConfig
    from cvpods_ext.configs.auto_assign_config import AutoAssignConfig
    from cvpods_ext.configs.compose import compose
    from cvpods_ext.configs.feature_align_config import FeatureAlignConfig
    from cvpods_ext.configs.free_anchor_config import FreeAnchorConfig

__all__ = lazy_names(
    __name__,
    {
        "atss_config": ["ATSSConfig"],
        "auto_assign_config": ["AutoAssignConfig"],
        "compose": ["compose"],
        "feature_align_config": ["FeatureAlignConfig"],
        "free_anchor_config": ["FreeAnchorConfig"],
    },
)
