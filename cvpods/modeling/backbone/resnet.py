"""ResNet (arXiv:1512.03385) and ResNeXt (arXiv:1611.05431) backbones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cvpods.layers import Conv2d, ShapeSpec, get_activation, get_norm
from cvpods.modeling.backbone.backbone import Backbone, freeze
from cvpods.modeling.nn_utils.weight_init import c2_msra_fill
from cvpods.utils.errors import ConfigError

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STAGES = ("res2", "res3", "res4", "res5")


def _conv(inputs: int, outputs: int, kernel: int, norm: str, **kwargs: Any) -> Conv2d:
    """Convolution of "same" size, without bias, with its norm; He initialisation."""
    padding = kwargs.get("dilation", 1) * (kernel // 2)
    conv = Conv2d(
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
    """7x7 / 2 convolution (deep: three 3x3), then 3x3 / 2 max pooling: stride 4."""

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
        self.activation = get_activation(activation or {"NAME": "ReLU"})
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
    """x -> activation(residual(x) + shortcut(x)); `shortcut` exists where the shape changes."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: str, activation: dict
    ) -> None:
        super().__init__()
        self.shortcut = None
        if in_channels != out_channels or stride != 1:
            self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride)
        self.activation = get_activation(activation)

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.shortcut is None else self.shortcut(x)
        return self.activation(self.residual(x) + identity)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions: ResNet-18 and -34."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, norm: str, activation: dict
    ) -> None:
        super().__init__(in_channels, out_channels, stride, norm, activation)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)

    def residual(self, x: Tensor) -> Tensor:
        return self.conv2(self.activation(self.conv1(x)))

    @property
    def last_norm(self) -> nn.Module | None:
        return self.conv2.norm


class BottleneckBlock(ResidualBlock):
    """1x1, 3x3 (grouped in ResNeXt), 1x1 convolutions: ResNet-50 and deeper.

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
    ) -> None:
        super().__init__(in_channels, out_channels, stride, norm, activation)
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        width = bottleneck_channels
        self.conv1 = _conv(in_channels, width, 1, norm, stride=first)
        self.conv2 = _conv(
            width, width, 3, norm, stride=second, groups=num_groups, dilation=dilation
        )
        self.conv3 = _conv(width, out_channels, 1, norm)

    def residual(self, x: Tensor) -> Tensor:
        x = self.activation(self.conv1(x))
        x = self.activation(self.conv2(x))
        return self.conv3(x)

    @property
    def last_norm(self) -> nn.Module | None:
        return self.conv3.norm


class ResNet(Backbone):
    """Stem and stages res2 .. res5; returns those named in `out_features`.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_groups, width_per_group: ResNeXt's cardinality and width (32 x 8d: 32, 8).
        norm: "FrozenBN", "BN", "SyncBN", "GN" or "".
        res5_dilation: 2 keeps res5 at the stride of res4.
        freeze_at: stop gradients in the stem (>= 1) and in res2 .. resN (>= N).
        num_classes: add average pooling and a linear classifier, output "linear".
    """

    def __init__(
        self,
        *,
        depth: int,
        out_features: Sequence[str],
        in_channels: int = 3,
        num_groups: int = 1,
        width_per_group: int = 64,
        norm: str = "BN",
        activation: dict | None = None,
        stride_in_1x1: bool = False,
        res5_dilation: int = 1,
        res2_out_channels: int = 256,
        stem_out_channels: int = 64,
        deep_stem: bool = False,
        zero_init_residual: bool = False,
        freeze_at: int = 0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        _check(depth, out_features, num_groups, res2_out_channels, num_classes)
        if depth < 50 and res5_dilation != 1:
            raise ConfigError(f"ResNet-{depth} has no MODEL.RESNETS.RES5_DILATION {res5_dilation}.")
        activation = activation or {"NAME": "ReLU", "INPLACE": True}
        self.stem = BasicStem(
            in_channels, stem_out_channels, norm, activation=activation, deep=deep_stem
        )
        self._out_features = list(out_features)
        self._out_feature_strides = {"stem": 4}
        self._out_feature_channels = {"stem": stem_out_channels}
        self.stage_names = _needed_stages(out_features)
        channels, stride = stem_out_channels, 4
        for index, name in enumerate(self.stage_names):
            dilation = res5_dilation if name == "res5" else 1
            first_stride = 1 if index == 0 or dilation > 1 else 2
            common = {"norm": norm, "activation": activation}
            block: type[BasicBlock | BottleneckBlock] = BasicBlock
            if depth >= 50:
                block = BottleneckBlock
                common["bottleneck_channels"] = num_groups * width_per_group * 2**index
                common["num_groups"] = num_groups
                common["stride_in_1x1"] = stride_in_1x1
                common["dilation"] = dilation
            outputs = res2_out_channels * 2**index
            blocks = nn.Sequential()
            for i in range(BLOCKS_PER_STAGE[depth][index]):
                blocks.append(
                    block(channels, outputs, stride=first_stride if i == 0 else 1, **common)
                )
                channels = outputs
            self.add_module(name, blocks)
            stride *= first_stride
            self._out_feature_strides[name] = stride
            self._out_feature_channels[name] = channels
        if num_classes is not None:
            self.linear = nn.Linear(channels, num_classes)
            nn.init.normal_(self.linear.weight, std=0.01)
            self._out_feature_strides["linear"] = stride
            self._out_feature_channels["linear"] = num_classes
        if zero_init_residual:
            self._zero_last_norms()
        self._freeze(freeze_at)

    def _zero_last_norms(self) -> None:
        for module in self.modules():
            if isinstance(module, ResidualBlock) and module.last_norm is not None:
                nn.init.zeros_(module.last_norm.weight)

    def _freeze(self, freeze_at: int) -> None:
        if freeze_at >= 1:
            self.stem = freeze(self.stem)
        for name in self.stage_names:
            if freeze_at >= int(name[3:]):
                setattr(self, name, freeze(getattr(self, name)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> {name: (N, channels, H / stride, W / stride)}."""
        x = self.stem(x)
        outputs = {"stem": x}
        for name in self.stage_names:
            x = getattr(self, name)(x)
            outputs[name] = x
        if "linear" in self._out_features:
            outputs["linear"] = self.linear(x.mean(dim=(2, 3)))
        return {name: outputs[name] for name in self._out_features}


def _needed_stages(out_features: Sequence[str]) -> tuple[str, ...]:
    if "linear" in out_features:
        return STAGES
    used = [STAGES.index(name) for name in out_features if name in STAGES]
    return STAGES[: max(used, default=-1) + 1]


def _check(
    depth: int,
    out_features: Sequence[str],
    num_groups: int,
    res2_out_channels: int,
    num_classes: int | None,
) -> None:
    if depth not in BLOCKS_PER_STAGE:
        raise ConfigError(f"MODEL.RESNETS.DEPTH must be one of {list(BLOCKS_PER_STAGE)}: {depth}.")
    known = ["stem", *STAGES] + (["linear"] if num_classes is not None else [])
    if not out_features or set(out_features) - set(known):
        raise ConfigError(
            f"MODEL.RESNETS.OUT_FEATURES must name some of {known}: {list(out_features)}."
        )
    if depth < 50 and (res2_out_channels != 64 or num_groups != 1):
        raise ConfigError(
            f"ResNet-{depth} needs MODEL.RESNETS.RES2_OUT_CHANNELS 64 and NUM_GROUPS 1; got "
            f"{res2_out_channels} and {num_groups}."
        )


def build_resnet_backbone(cfg: Any, input_shape: ShapeSpec) -> ResNet:
    """Build the ResNet that cfg.MODEL.RESNETS and cfg.MODEL.BACKBONE describe."""
    resnets = cfg.MODEL.RESNETS
    return ResNet(
        depth=resnets.DEPTH,
        out_features=resnets.OUT_FEATURES,
        in_channels=input_shape.channels,
        num_groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        norm=resnets.NORM,
        activation=resnets.ACTIVATION,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        res5_dilation=resnets.RES5_DILATION,
        res2_out_channels=resnets.RES2_OUT_CHANNELS,
        stem_out_channels=resnets.STEM_OUT_CHANNELS,
        deep_stem=resnets.get("DEEP_STEM", False),
        zero_init_residual=resnets.ZERO_INIT_RESIDUAL,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        num_classes=resnets.NUM_CLASSES,
    )
