"""Conversion of a detector to FP16, except for the parts whose numbers exceed its range.

In FP16: convolutions and linear layers of backbone, pyramid and head, weights and activations.
In FP32: group, layer and batch norms (a sum of 10,000 squares exceeds 65,504), attention and its
position code, the offsets of deformable convolutions and their sampling (positions need more than
11 bits), and everything after the head: scores, boxes, NMS. Inputs and outputs stay in FP32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cvpods.layers import FrozenBatchNorm2d
from cvpods.layers.deform_conv import DeformConv, OffsetConv
from cvpods.modeling.meta_arch import DenseDetector
from cvpods_ext.methods.feature_align.attention import AttentionEncoder

_BATCH_NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm)
_NORMS = (*_BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)
# These compute in float32 whatever their input. AttentionEncoder needs casts around it to do so.
_IN_FLOAT32 = (DeformConv, OffsetConv)


def fold_batch_norms(model: nn.Module) -> None:
    """Fold batch norms with fixed statistics into the convolutions before them, in place.

    A batch norm is folded if it is a convolution's own `norm`, or follows a convolution in a
    Sequential. `model` must be in evaluation mode.
    """
    for module in list(model.modules()):
        own = getattr(module, "norm", None)
        if isinstance(module, (nn.Conv2d, DeformConv)) and isinstance(own, _BATCH_NORMS):
            _fold(module, own)
            module.norm = None
        if isinstance(module, nn.Sequential):
            for i in range(len(module) - 1):
                first, second = module[i], module[i + 1]
                if type(first) is nn.Conv2d and isinstance(second, _BATCH_NORMS):
                    _fold(first, second)
                    module[i + 1] = nn.Identity()


def to_half(detector: DenseDetector) -> None:
    """Make a detector's network compute in FP16 as the module's docstring states, in place.

    The detector must be in evaluation mode. Call fold_batch_norms first: batch norms that remain
    stay in FP32.
    """
    for part in (detector.backbone, detector.head):
        _to_half(part)


def _to_half(module: nn.Module) -> None:
    if isinstance(module, (AttentionEncoder, *_NORMS)):
        _cast(module, torch.float32, torch.float16)
    elif isinstance(module, (nn.Conv2d, nn.Linear)) and not isinstance(module, _IN_FLOAT32):
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.half()
        _cast(module, torch.float16, None)
        for child in module.children():
            _to_half(child)
    else:
        for child in module.children():
            _to_half(child)


def _cast(module: nn.Module, inside: torch.dtype, outside: torch.dtype | None) -> None:
    """Cast a module's first input to `inside`, and its output to `outside` unless that is None."""

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return (inputs[0].to(inside), *inputs[1:])

    def after(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.to(outside)

    module.register_forward_pre_hook(before)
    if outside is not None:
        module.register_forward_hook(after)


def _fold(conv: Any, norm: Any) -> None:
    statistics = norm.running_mean, norm.running_var, norm.eps
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, *statistics, norm.weight, norm.bias
    )
