"""The dense detectors and what they are built from."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.modeling.meta_arch.arguments import (
        input_shapes,
        shared_arguments,
    )
    from cvpods.modeling.meta_arch.dense_detector import DenseDetector
    from cvpods.modeling.meta_arch.dense_head import DenseHead
    from cvpods.modeling.meta_arch.fcos import (
        FCOS,
        FCOSDetector,
    )
    from cvpods.modeling.meta_arch.retinanet import (
        RetinaNet,
        RetinaNetDetector,
    )

__all__ = lazy_names(
    __name__,
    {
        "arguments": ["input_shapes", "shared_arguments"],
        "dense_detector": ["DenseDetector"],
        "dense_head": ["DenseHead"],
        "fcos": ["FCOS", "FCOSDetector"],
        "retinanet": ["RetinaNet", "RetinaNetDetector"],
    },
)
