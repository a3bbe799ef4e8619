"""Data sets, transforms, samplers and loaders."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.data.build import (
        build_dataset,
        build_test_loader,
        build_train_loader,
        build_transform_gens,
    )
    from cvpods.data.datasets import register_coco_instances
    from cvpods.data.registry import (
        DATASETS,
        PATH_ROUTES,
        SAMPLERS,
        TRANSFORMS,
    )

__all__ = lazy_names(
    __name__,
    {
        "build": [
            "build_dataset",
            "build_test_loader",
            "build_train_loader",
            "build_transform_gens",
        ],
        "datasets": ["register_coco_instances"],
        "registry": ["DATASETS", "PATH_ROUTES", "SAMPLERS", "TRANSFORMS"],
    },
)
