"""Building blocks of ResNets: the stem, and residual blocks with or without deformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cvpods.layers import Conv2d, get_activation, get_norm
from cvpods.modeling.nn_utils.weight_init import c2_msra_fill


class Deformation(NamedTuple):
    """Deformation of a block's 3x3 convolution `conv2`, which samples where `conv2_offset` says."""

    modulated: bool = True
    groups: int = 1


def _conv(
    inputs: int, outputs: int, kernel: int, norm: str, kind: Any = Conv2d, **kwargs: Any
) -> Any:
    """Return a convolution of "same" size, without bias, with its norm; He initialisation."""
    padding = kwargs.get("dilation", 1) * (kernel // 2)
    conv = kind(
        inputs,
        outputs,
        kernel,
        padding=padding,
        bias=False,
        norm=get_norm(norm, outputs),
        **kwargs,
    )
    c2_msra_fill(conv)
    return conv


class BasicStem(nn.Module):
    """Stem of stride 4: 7x7 / 2 convolution (deep: three 3x3), then 3x3 / 2 max pooling."""

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 64,
        norm: str = "BN",
        *,
        activation: dict | None = None,
        deep: bool = False,
    ) -> None:
        super().__init__()
        self.deep = deep
        self.out_channels = out_channels
        self.activation: Any = get_activation(activation or {"NAME": "ReLU"})
        if deep:
            half = out_channels // 2
            self.conv1_1 = _conv(in_channels, half, 3, norm, stride=2)
            self.conv1_2 = _conv(half, half, 3, norm)
            self.conv1_3 = _conv(half, out_channels, 3, norm)
        else:
            self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        convs = (self.conv1_1, self.conv1_2, self.conv1_3) if self.deep else (self.conv1,)
        for conv in convs:
            x = self.activation(conv(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class ResidualBlock(nn.Module):
    """Block x -> activation(residual(x) + shortcut(x)); `shortcut` is None if the shape stays."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: str, activation: dict
    ) -> None:
        super().__init__()
        self.shortcut = None
        if in_channels != out_channels or stride != 1:
            self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride)
        self.activation: Any = get_activation(activation)

    def add_conv2(
        self, inputs: int, outputs: int, norm: str, deformation: Deformation | None, **kwargs: Any
    ) -> None:
        """Add the 3x3 convolution `conv2` and, with `deformation`, `conv2_offset` beside it.

        The weight keeps its name, so that pretrained weights of plain blocks fit deformable ones.
        """
        self.conv2_offset = None
        if deformation is None:
            self.conv2 = _conv(inputs, outputs, 3, norm, **kwargs)
            return
        from cvpods.layers import DeformConv, ModulatedDeformConv, OffsetConv

        kind = ModulatedDeformConv if deformation.modulated else DeformConv
        self.conv2 = _conv(
            inputs, outputs, 3, norm, kind, deformable_groups=deformation.groups, **kwargs
        )
        self.conv2_offset = OffsetConv(self.conv2)

    def apply_conv2(self, x: Tensor) -> Tensor:
        if self.conv2_offset is None:
            return self.conv2(x)
        return self.conv2(x, *self.conv2_offset(x))

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.shortcut is None else self.shortcut(x)
        return self.activation(self.residual(x) + identity)


class BasicBlock(ResidualBlock):
    """Block of two 3x3 convolutions, the second may deform: ResNet-18 and -34."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        norm: str,
        activation: dict,
        deformation: Deformation | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, norm, activation)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride)
        self.add_conv2(out_channels, out_channels, norm, deformation)

    def residual(self, x: Tensor) -> Tensor:
        return self.apply_conv2(self.activation(self.conv1(x)))

    @property
    def last_norm(self) -> nn.Module | None:
        return self.conv2.norm


class BottleneckBlock(ResidualBlock):
    """Block of 1x1, 3x3 (grouped in ResNeXt; may deform), 1x1 convolutions: ResNet-50 and deeper.

    Args:
        stride_in_1x1: put the stride on the first 1x1 (MSRA's weights) instead of on the 3x3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int,
        norm: str,
        activation: dict,
        num_groups: int = 1,
        stride_in_1x1: bool = False,
        dilation: int = 1,
        deformation: Deformation | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, norm, activation)
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        width = bottleneck_channels
        self.conv1 = _conv(in_channels, width, 1, norm, stride=first)
        self.add_conv2(
            width, width, norm, deformation, stride=second, groups=num_groups, dilation=dilation
        )
        self.conv3 = _conv(width, out_channels, 1, norm)

    def residual(self, x: Tensor) -> Tensor:
        x = self.activation(self.conv1(x))
        x = self.activation(self.apply_conv2(x))
        return self.conv3(x)

    @property
    def last_norm(self) -> nn.Module | None:
        return self.conv3.norm
