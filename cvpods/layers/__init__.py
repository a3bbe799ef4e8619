from cvpods.layers.batch_norm import (
    BatchNorm2d,
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    get_activation,
    get_norm,
)
from cvpods.layers.box_voting import box_voting
from cvpods.layers.deform_conv import DeformConv, DFConv2d, ModulatedDeformConv, OffsetConv
from cvpods.layers.nms import (
    batched_nms,
    batched_softnms,
    cluster_nms,
    generalized_batched_nms,
    nms,
)
from cvpods.layers.shape_spec import ShapeSpec
from cvpods.layers.wrappers import Conv2d, cat

__all__ = [
    "BatchNorm2d",
    "Conv2d",
    "DFConv2d",
    "DeformConv",
    "FrozenBatchNorm2d",
    "ModulatedDeformConv",
    "NaiveSyncBatchNorm",
    "OffsetConv",
    "ShapeSpec",
    "batched_nms",
    "batched_softnms",
    "box_voting",
    "cat",
    "cluster_nms",
    "generalized_batched_nms",
    "get_activation",
    "get_norm",
    "nms",
]
