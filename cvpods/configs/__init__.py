"""Configurations: a nested dict with checked overrides, and the defaults of every detector."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.configs.base_config import BaseConfig
    from cvpods.configs.base_detection_config import BaseDetectionConfig
    from cvpods.configs.config_dict import ConfigDict
    from cvpods.configs.fcos_config import FCOSConfig
    from cvpods.configs.retinanet_config import RetinaNetConfig

__all__ = lazy_names(
    __name__,
    {
        "base_config": ["BaseConfig"],
        "base_detection_config": ["BaseDetectionConfig"],
        "config_dict": ["ConfigDict"],
        "fcos_config": ["FCOSConfig"],
        "retinanet_config": ["RetinaNetConfig"],
    },
)
