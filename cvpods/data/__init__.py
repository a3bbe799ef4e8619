from cvpods.data.build import (
    build_dataset,
    build_test_loader,
    build_train_loader,
    build_transform_gens,
)
from cvpods.data.datasets import register_coco_instances
from cvpods.data.registry import DATASETS, PATH_ROUTES, SAMPLERS, TRANSFORMS

__all__ = [
    "DATASETS",
    "PATH_ROUTES",
    "SAMPLERS",
    "TRANSFORMS",
    "build_dataset",
    "build_test_loader",
    "build_train_loader",
    "build_transform_gens",
    "register_coco_instances",
]
