"""Backbone: a network that maps an image batch to named feature maps."""

from __future__ import annotations

from torch import Tensor, nn

from cvpods.layers import FrozenBatchNorm2d, ShapeSpec

# Of the stages of networks like ResNet.
STAGE_STRIDES = {"stem": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}


class Backbone(nn.Module):
    """Base of backbones. Subclasses set `_out_features`, `_out_feature_channels` and
    `_out_feature_strides`."""

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) images -> {name: (N, channels, H / stride, W / stride)}."""
        raise NotImplementedError

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this; 0: any size."""
        return 0

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every output."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }


def freeze(module: nn.Module) -> nn.Module:
    """Return `module` without gradients and with frozen batch norms."""
    for parameter in module.parameters():
        parameter.requires_grad = False
    return FrozenBatchNorm2d.convert_frozen_batchnorm(module)
