"""Transforms of an image and the boxes on it."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.data.transforms.augmentations import (
        OrderList,
        Pad,
        RandomCrop,
        RandomFlip,
        RandomList,
        Resize,
        ResizeLongestEdge,
        ResizeShortestEdge,
        ShuffleList,
    )
    from cvpods.data.transforms.build import build_transform_gens
    from cvpods.data.transforms.colours import (
        RandomBrightness,
        RandomContrast,
        RandomLighting,
        RandomSaturation,
        RandomSwapChannels,
    )
    from cvpods.data.transforms.torchvision_bridge import (
        Expand,
        MinIoURandomCrop,
        RandomDistortion,
        TorchTransformGen,
    )
    from cvpods.data.transforms.transform import (
        BlendTransform,
        ComposeTransform,
        CropTransform,
        HFlipTransform,
        NoOpTransform,
        PadTransform,
        ResizeTransform,
        Transform,
        TransformGen,
        VFlipTransform,
    )

__all__ = lazy_names(
    __name__,
    {
        "augmentations": [
            "OrderList",
            "Pad",
            "RandomCrop",
            "RandomFlip",
            "RandomList",
            "Resize",
            "ResizeLongestEdge",
            "ResizeShortestEdge",
            "ShuffleList",
        ],
        "build": ["build_transform_gens"],
        "colours": [
            "RandomBrightness",
            "RandomContrast",
            "RandomLighting",
            "RandomSaturation",
            "RandomSwapChannels",
        ],
        "torchvision_bridge": [
            "Expand",
            "MinIoURandomCrop",
            "RandomDistortion",
            "TorchTransformGen",
        ],
        "transform": [
            "BlendTransform",
            "ComposeTransform",
            "CropTransform",
            "HFlipTransform",
            "NoOpTransform",
            "PadTransform",
            "ResizeTransform",
            "Transform",
            "TransformGen",
            "VFlipTransform",
        ],
    },
)
