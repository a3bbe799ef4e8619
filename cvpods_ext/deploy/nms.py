"""NMS of a batch as one operator: torchvision's in PyTorch, NonMaxSuppression in an ONNX graph."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cvpods.layers import batched_nms
from cvpods.modeling.meta_arch.candidates import NO_CANDIDATE


@torch.library.custom_op("cvpods::nms_keep", mutates_args=())
def nms_keep(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    num_classes: int,
    max_per_class: int,
) -> Tensor:
    """Return (N, J) bool: whether each candidate survives the NMS of its image and class.

    Args:
        boxes: (N, J, 4) xyxy, pixels.
        scores: (N, J) float32; NO_CANDIDATE in rows without a candidate.
        labels: (N, J) int64 in 0 ... num_classes - 1.
        iou_threshold: see cvpods.layers.batched_nms.
        num_classes, max_per_class: arguments of the ONNX operator; in PyTorch, a class may keep
            more.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        real = (scores[image] > NO_CANDIDATE).nonzero().flatten()
        found = batched_nms(
            boxes[image, real], scores[image, real], labels[image, real], iou_threshold
        )
        keep[image, real[found]] = True
    return keep


@nms_keep.register_fake
def _(boxes: Tensor, scores: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_translation() -> dict[Any, Callable]:
    """Return the entry for nms_keep in the custom_translation_table of torch.onnx.export."""
    op = importlib.import_module("onnxscript").opset18

    def translate(boxes, scores, labels, iou_threshold, num_classes, max_per_class):  # type: ignore[no-untyped-def]
        # (N, K, J): a candidate has its score in its own class, and NO_CANDIDATE in the others.
        classes = op.Constant(value_ints=[*range(num_classes)])
        own = op.Equal(op.Unsqueeze(classes, [1]), op.Unsqueeze(labels, [1]))
        nothing = op.Constant(value_float=NO_CANDIDATE)
        by_class = op.Where(own, op.Unsqueeze(scores, [1]), nothing)
        selected = op.NonMaxSuppression(
            boxes,
            by_class,
            op.Constant(value_ints=[max_per_class]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[NO_CANDIDATE / 2]),
        )  # rows (image, class, candidate)
        kept = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.ConstantOfShape(op.Shape(kept, end=1))
        keep = op.ScatterND(op.Mul(scores, 0.0), kept, op.Add(ones, 1.0))
        return op.Cast(keep, to=9)  # bool

    return {torch.ops.cvpods.nms_keep.default: translate}
