from cvpods_ext.configs.compose import compose

__all__ = ["compose"]
