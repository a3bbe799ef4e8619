from cvpods.configs.base_config import BaseConfig
from cvpods.configs.base_detection_config import BaseDetectionConfig
from cvpods.configs.config_dict import ConfigDict
from cvpods.configs.fcos_config import FCOSConfig
from cvpods.configs.retinanet_config import RetinaNetConfig

__all__ = ["BaseConfig", "BaseDetectionConfig", "ConfigDict", "FCOSConfig", "RetinaNetConfig"]
