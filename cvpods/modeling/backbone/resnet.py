"""ResNet (arXiv:1512.03385) and ResNeXt (arXiv:1611.05431) backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cvpods.layers import ShapeSpec
from cvpods.layers.shape_spec import channels_of
from cvpods.modeling.backbone.backbone import Backbone, freeze
from cvpods.modeling.backbone.resnet_blocks import (
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    Deformation,
    ResidualBlock,
)
from cvpods.modeling.backbone.stages import STAGES
from cvpods.utils.errors import ConfigError

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResNet(Backbone):
    """ResNet of a stem and stages res2 .. res5; it returns those named in `out_features`.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_groups, width_per_group: ResNeXt's cardinality and width (32 x 8d: 32, 8).
        norm: "FrozenBN", "BN", "SyncBN", "GN" or "".
        res5_dilation: 2 keeps res5 at the stride of res4.
        freeze_at: stop gradients in the stem (>= 1) and in res2 .. resN (>= N).
        num_classes: add average pooling and a linear classifier, output "linear".
        deformations: deformation of the 3x3 convolutions of a stage, by its name ("res3").

    Raises:
        ConfigError: arguments do not fit each other.
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
        deformations: Mapping[str, Deformation] | None = None,
    ) -> None:
        super().__init__()
        _check(depth, out_features, num_groups, res2_out_channels, res5_dilation, num_classes)
        activation = activation or {"NAME": "ReLU", "INPLACE": True}
        self.stem = BasicStem(
            in_channels, stem_out_channels, norm, activation=activation, deep=deep_stem
        )
        self._out_features = list(out_features)
        self._out_feature_strides = {"stem": 4}
        self._out_feature_channels = {"stem": stem_out_channels}
        self.stage_names = _needed_stages(out_features)
        _check_deformations(deformations or {}, self.stage_names)
        channels, stride = stem_out_channels, 4
        for index, name in enumerate(self.stage_names):
            dilation = res5_dilation if name == "res5" else 1
            first_stride = 1 if index == 0 or dilation > 1 else 2
            arguments: dict[str, Any] = {
                "norm": norm,
                "activation": activation,
                "deformation": (deformations or {}).get(name),
            }
            if depth >= 50:
                arguments["bottleneck_channels"] = num_groups * width_per_group * 2**index
                arguments["num_groups"] = num_groups
                arguments["stride_in_1x1"] = stride_in_1x1
                arguments["dilation"] = dilation
            outputs = res2_out_channels * 2**index
            self.add_module(name, _stage(depth, index, channels, outputs, first_stride, arguments))
            channels = outputs
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
            norm: Any = module.last_norm if isinstance(module, ResidualBlock) else None
            if norm is not None:
                nn.init.zeros_(norm.weight)

    def _freeze(self, freeze_at: int) -> None:
        if freeze_at >= 1:
            freeze(self.stem)
        for name in self.stage_names:
            if freeze_at >= int(name[3:]):
                setattr(self, name, freeze(getattr(self, name)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return {name: (N, channels, H / stride, W / stride)}, given images (N, C, H, W)."""
        x = self.stem(x)
        outputs = {"stem": x}
        for name in self.stage_names:
            x = getattr(self, name)(x)
            outputs[name] = x
        if "linear" in self._out_features:
            outputs["linear"] = self.linear(x.mean(dim=(2, 3)))
        return {name: outputs[name] for name in self._out_features}


def _stage(
    depth: int, index: int, inputs: int, outputs: int, stride: int, arguments: dict[str, Any]
) -> nn.Sequential:
    """Return the blocks of a stage; the first one changes channels and stride."""
    block = BottleneckBlock if depth >= 50 else BasicBlock
    count = BLOCKS_PER_STAGE[depth][index]
    first = block(inputs, outputs, stride=stride, **arguments)
    rest = (block(outputs, outputs, stride=1, **arguments) for _ in range(count - 1))
    return nn.Sequential(first, *rest)


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
    res5_dilation: int,
    num_classes: int | None,
) -> None:
    if depth not in BLOCKS_PER_STAGE:
        raise ConfigError(
            f"MODEL.RESNETS.DEPTH must be one of {list(BLOCKS_PER_STAGE)}; got {depth}."
        )
    known = ["stem", *STAGES] + (["linear"] if num_classes is not None else [])
    if not out_features or set(out_features) - set(known):
        raise ConfigError(
            f"MODEL.RESNETS.OUT_FEATURES must name some of {known}; got {list(out_features)}."
        )
    if depth < 50 and (res2_out_channels != 64 or num_groups != 1):
        raise ConfigError(
            f"ResNet-{depth} must have MODEL.RESNETS.RES2_OUT_CHANNELS 64 and NUM_GROUPS 1; got "
            f"{res2_out_channels} and {num_groups}."
        )
    if depth < 50 and res5_dilation != 1:
        raise ConfigError(
            f"MODEL.RESNETS.RES5_DILATION must be 1 in ResNet-{depth}; got {res5_dilation}."
        )


def _check_deformations(deformations: Mapping[str, Any], stage_names: Sequence[str]) -> None:
    missing = sorted(set(deformations) - set(stage_names))
    if missing:
        raise ConfigError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE switches on {missing}, but OUT_FEATURES only needs "
            f"{list(stage_names)}."
        )


def _deformations(resnets: Any) -> dict[str, Deformation]:
    """Return the deformation of each stage that MODEL.RESNETS.DEFORM_ON_PER_STAGE switches on.

    Raises:
        ConfigError: DEFORM_ON_PER_STAGE or DEFORM_NUM_GROUPS does not fit.
    """
    switches = resnets.DEFORM_ON_PER_STAGE
    is_list = isinstance(switches, (list, tuple)) and len(switches) == len(STAGES)
    if not is_list or not all(isinstance(on, bool) for on in switches):
        raise ConfigError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE must hold True or False for each of {STAGES}; "
            f"got {switches!r}."
        )
    groups = resnets.DEFORM_NUM_GROUPS
    # The channels of every deformable convolution are a multiple of those in res2.
    width = resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP
    if type(groups) is not int or groups < 1 or width % groups:
        raise ConfigError(
            f"MODEL.RESNETS.DEFORM_NUM_GROUPS must divide the {width} channels of a block's 3x3 "
            f"convolution in res2; got {groups!r}."
        )
    deformation = Deformation(resnets.DEFORM_MODULATED, groups)
    return {name: deformation for name, on in zip(STAGES, switches, strict=True) if on}


def build_resnet_backbone(cfg: Any, input_shape: ShapeSpec) -> ResNet:
    """Build the ResNet that cfg.MODEL.RESNETS and cfg.MODEL.BACKBONE describe."""
    resnets = cfg.MODEL.RESNETS
    return ResNet(
        depth=resnets.DEPTH,
        out_features=resnets.OUT_FEATURES,
        in_channels=channels_of(input_shape),
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
        deformations=_deformations(resnets),
    )
