"""Registries of data sets, transforms and samplers; experiments may add to them."""

from cvpods.utils.registry import Registry

DATASETS = Registry(
    "datasets",
    [f"cvpods.data.datasets.{module}" for module in ("base_dataset", "coco", "voc")],
)
TRANSFORMS = Registry(
    "transforms",
    [
        f"cvpods.data.transforms.{module}"
        for module in ("augmentations", "colours", "torchvision_bridge")
    ],
)
SAMPLERS = Registry("samplers", ["cvpods.data.samplers.samplers"])
# Values are live dicts: {"dataset_type": class name, "evaluator_type": {task: type},
# task: {data set name: (image folder, annotation file)}}.
PATH_ROUTES = Registry("path_routes", ["cvpods.data.datasets.paths"])

__all__ = ["DATASETS", "PATH_ROUTES", "SAMPLERS", "TRANSFORMS"]
