"""Registries of data sets, transforms and samplers; experiments may add to them."""

from cvpods.utils.registry import Registry

DATASETS = Registry("datasets")
TRANSFORMS = Registry("transforms")
SAMPLERS = Registry("samplers")
# Values are live dicts: {"dataset_type": class name, "evaluator_type": {task: type},
# task: {data set name: (image folder, annotation file)}}.
PATH_ROUTES = Registry("path_routes")

__all__ = ["DATASETS", "PATH_ROUTES", "SAMPLERS", "TRANSFORMS"]
