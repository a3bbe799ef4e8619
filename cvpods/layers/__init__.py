"""Layers and NMS: thin names over torch and torchvision."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.layers.batch_norm import (
        BatchNorm2d,
        FrozenBatchNorm2d,
        NaiveSyncBatchNorm,
        get_activation,
        get_norm,
    )
    from cvpods.layers.box_voting import box_voting
    from cvpods.layers.deform_conv import (
        DeformConv,
        DFConv2d,
        ModulatedDeformConv,
        OffsetConv,
    )
    from cvpods.layers.nms import (
        batched_nms,
        batched_softnms,
        cluster_nms,
        generalized_batched_nms,
        nms,
    )
    from cvpods.layers.shape_spec import ShapeSpec
    from cvpods.layers.wrappers import (
        Conv2d,
        cat,
    )

__all__ = lazy_names(
    __name__,
    {
        "batch_norm": [
            "BatchNorm2d",
            "FrozenBatchNorm2d",
            "NaiveSyncBatchNorm",
            "get_activation",
            "get_norm",
        ],
        "box_voting": ["box_voting"],
        "deform_conv": ["DeformConv", "DFConv2d", "ModulatedDeformConv", "OffsetConv"],
        "nms": ["batched_nms", "batched_softnms", "cluster_nms", "generalized_batched_nms", "nms"],
        "shape_spec": ["ShapeSpec"],
        "wrappers": ["Conv2d", "cat"],
    },
)
