"""Feature pyramid network (arXiv:1612.03144) and its builders."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cvpods.layers import Conv2d, ShapeSpec, get_norm
from cvpods.layers.shape_spec import channels_of, strides_of
from cvpods.modeling.backbone.backbone import Backbone
from cvpods.modeling.backbone.mobilenet import build_mobilenetv2_backbone
from cvpods.modeling.backbone.resnet import build_resnet_backbone
from cvpods.modeling.backbone.timm_backbone import build_timm_backbone
from cvpods.modeling.nn_utils.weight_init import c2_xavier_fill
from cvpods.utils.errors import ConfigError


class FPN(Backbone):
    """Pyramid of 1x1 laterals, nearest x2 top-down additions and 3x3 outputs.

    The level of stride 2^n is called p{n}: p3, p4, ...

    Args:
        bottom_up: backbone that supplies `in_features`.
        in_features: names of maps with strides 2^n, each twice the one before.
        top_block: computes levels above the top one from p{top} or from a bottom-up map.
        fuse_type: "sum", or "avg" for half the sum.

    Raises:
        ConfigError: in_features or fuse_type does not fit.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        top_block: TopBlock | None = None,
        fuse_type: str = "sum",
    ) -> None:
        super().__init__()
        if fuse_type not in ("sum", "avg"):
            raise ConfigError(f"MODEL.FPN.FUSE_TYPE must be 'sum' or 'avg'; got {fuse_type!r}.")
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.top_block = top_block
        self.fuse_scale = 1.0 if fuse_type == "sum" else 0.5
        shapes = bottom_up.output_shape()
        _check_features(in_features, shapes)
        self.levels = [_level(stride) for stride in strides_of(shapes[n] for n in in_features)]
        if self.levels != list(range(self.levels[0], self.levels[0] + len(self.levels))):
            raise ConfigError(f"Strides of {list(in_features)} must double from one to the next.")
        for name, level in zip(in_features, self.levels, strict=True):
            channels = channels_of(shapes[name])
            self.add_module(f"fpn_lateral{level}", pyramid_conv(channels, out_channels, 1, norm))
            self.add_module(f"fpn_output{level}", pyramid_conv(out_channels, out_channels, 3, norm))
        above = top_block.num_levels if top_block is not None else 0
        levels = [*self.levels, *range(self.levels[-1] + 1, self.levels[-1] + 1 + above)]
        self._out_features = [f"p{level}" for level in levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        return 2 ** self.levels[-1]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return {"p3": (N, out_channels, H / 8, W / 8), ...}, given images (N, C, H, W)."""
        return self.pyramid(self.bottom_up(x))

    def pyramid(self, bottom_up: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the pyramid's levels, given the bottom-up maps."""
        outputs: dict[str, Tensor] = {}
        top_down = None
        for name, level in zip(reversed(self.in_features), reversed(self.levels), strict=True):
            merged = getattr(self, f"fpn_lateral{level}")(bottom_up[name])
            if top_down is not None:
                upsampled = F.interpolate(top_down, scale_factor=2.0, mode="nearest")
                merged = (merged + upsampled) * self.fuse_scale
            top_down = merged
            outputs[f"p{level}"] = getattr(self, f"fpn_output{level}")(merged)
        if self.top_block is not None:
            source = self.top_block.in_feature
            extra = self.top_block(outputs[source] if source in outputs else bottom_up[source])
            first = self.levels[-1] + 1
            outputs.update({f"p{first + i}": feature for i, feature in enumerate(extra)})
        return {name: outputs[name] for name in self._out_features}


def _check_features(in_features: Sequence[str], shapes: dict[str, ShapeSpec]) -> None:
    if not in_features or set(in_features) - set(shapes):
        raise ConfigError(
            "MODEL.FPN.IN_FEATURES must name features of the backbone, which are "
            f"{list(shapes)} (MODEL.RESNETS.OUT_FEATURES); got {list(in_features)}."
        )


def _level(stride: int) -> int:
    level = round(math.log2(stride))
    if 2**level != stride:
        raise ConfigError(f"Strides of a pyramid must be powers of two; got {stride}.")
    return level


def pyramid_conv(inputs: int, outputs: int, kernel: int, norm: str) -> Conv2d:
    """Return a convolution of the pyramid, initialised as FPN does."""
    conv = Conv2d(
        inputs,
        outputs,
        kernel,
        padding=kernel // 2,
        bias=not norm,
        norm=get_norm(norm, outputs),
    )
    c2_xavier_fill(conv)
    return conv


class TopBlock(nn.Module):
    """Base of the blocks that compute `num_levels` levels above the pyramid from `in_feature`."""

    num_levels: int
    in_feature: str


class LastLevelMaxPool(TopBlock):
    """Block that takes every second cell of P5 as P6."""

    num_levels = 1
    in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


class LastLevelP6P7(TopBlock):
    """Block of 3x3 / 2 convolutions: P6 from `in_feature` ("p5" or "res5"), P7 from relu(P6).

    Args:
        relu: False leaves the relu out.
    """

    num_levels = 2

    def __init__(
        self, in_channels: int, out_channels: int, in_feature: str = "res5", relu: bool = True
    ) -> None:
        super().__init__()
        self.in_feature = in_feature
        self.relu = relu
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)
        c2_xavier_fill(self.p6)
        c2_xavier_fill(self.p7)

    def forward(self, x: Tensor) -> list[Tensor]:
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6) if self.relu else p6)]


def build_p3_p7_pyramid(cfg: Any, bottom_up: Backbone, make_fpn: Callable[..., FPN] = FPN) -> FPN:
    """Build cfg.MODEL.FPN over `bottom_up`, with P6 and P7 from BLOCK_IN_FEATURES.

    Args:
        make_fpn: builds the pyramid from FPN's arguments.

    Raises:
        ConfigError: IN_FEATURES or BLOCK_IN_FEATURES does not fit.
    """
    fpn = cfg.MODEL.FPN
    source = fpn.BLOCK_IN_FEATURES
    shapes = bottom_up.output_shape()
    _check_features(fpn.IN_FEATURES, shapes)
    (top_stride,) = strides_of([shapes[fpn.IN_FEATURES[-1]]])
    pyramid_top = f"p{_level(top_stride)}"
    if source == pyramid_top:
        in_channels = fpn.OUT_CHANNELS
    elif source in shapes:
        in_channels = channels_of(shapes[source])
    else:
        raise ConfigError(
            f"MODEL.FPN.BLOCK_IN_FEATURES must be {pyramid_top!r} or one of {list(shapes)}; "
            f"got {source!r}."
        )
    return make_fpn(
        bottom_up,
        fpn.IN_FEATURES,
        fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelP6P7(in_channels, fpn.OUT_CHANNELS, source, fpn.RELU_BEFORE_P7),
        fuse_type=fpn.FUSE_TYPE,
    )


_BACKBONES: dict[str, Callable[[Any, ShapeSpec], Backbone]] = {
    "resnet": build_resnet_backbone,
    "mobilev2": build_mobilenetv2_backbone,
    "timm": build_timm_backbone,
}


def build_retinanet_fpn_backbone(
    cfg: Any, input_shape: ShapeSpec | None = None, backbone_name: str = "resnet"
) -> FPN:
    """Build a P3-P7 pyramid on the backbone called "resnet", "mobilev2" or "timm".

    Raises:
        ConfigError: the name is another one.
    """
    if backbone_name not in _BACKBONES:
        raise ConfigError(f"The backbone must be one of {list(_BACKBONES)}; got {backbone_name!r}.")
    input_shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    return build_p3_p7_pyramid(cfg, _BACKBONES[backbone_name](cfg, input_shape))


def build_retinanet_resnet_fpn_backbone(cfg: Any, input_shape: ShapeSpec | None = None) -> FPN:
    """Build a P3-P7 pyramid on a ResNet; P6 comes from cfg.MODEL.FPN.BLOCK_IN_FEATURES."""
    return build_retinanet_fpn_backbone(cfg, input_shape, "resnet")


def build_retinanet_mobilenetv2_fpn_backbone(cfg: Any, input_shape: ShapeSpec | None = None) -> FPN:
    """Build a P3-P7 pyramid on MobileNetV2."""
    return build_retinanet_fpn_backbone(cfg, input_shape, "mobilev2")


def build_retinanet_timm_fpn_backbone(cfg: Any, input_shape: ShapeSpec | None = None) -> FPN:
    """Build a P3-P7 pyramid on cfg.MODEL.TIMM, any feature backbone of the timm package."""
    return build_retinanet_fpn_backbone(cfg, input_shape, "timm")


def build_retinanet_resnet_fpn_p5_backbone(cfg: Any, input_shape: ShapeSpec | None = None) -> FPN:
    """Build a P3-P7 pyramid on a ResNet with P6 from P5; older experiments import this name.

    It sets cfg.MODEL.FPN.BLOCK_IN_FEATURES to "p5".
    """
    cfg.MODEL.FPN.BLOCK_IN_FEATURES = "p5"
    return build_retinanet_resnet_fpn_backbone(cfg, input_shape)


def build_resnet_fpn_backbone(cfg: Any, input_shape: ShapeSpec | None = None) -> FPN:
    """Build an FPN on a ResNet with P6 by max pooling, as two-stage detectors use it."""
    input_shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    fpn = cfg.MODEL.FPN
    return FPN(
        build_resnet_backbone(cfg, input_shape),
        fpn.IN_FEATURES,
        fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )


# The names that this project's experiments use; cvpods' names are longer.
build_resnet_fpn_p3_p7 = build_retinanet_resnet_fpn_backbone
build_mobilenetv2_fpn_p3_p7 = build_retinanet_mobilenetv2_fpn_backbone
build_timm_fpn_p3_p7 = build_retinanet_timm_fpn_backbone
