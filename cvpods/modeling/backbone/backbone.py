"""Backbone, a network that maps a batch of images to named feature maps."""

from __future__ import annotations

from torch import Tensor, nn

from cvpods.layers import FrozenBatchNorm2d, ShapeSpec
from cvpods.structures import ImageList

# Strides of the stages of networks like ResNet.
STAGE_STRIDES = {"stem": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}


class Backbone(nn.Module):
    """Base of backbones.

    Subclasses set `_out_features`, `_out_feature_channels` and `_out_feature_strides`.
    """

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return {name: (N, channels, H / stride, W / stride)}, given images (N, C, H, W)."""
        raise NotImplementedError

    def maps_of(self, images: ImageList) -> dict[str, Tensor]:
        """Return the maps of a padded batch; backbones that use the padding override this."""
        return self(images.tensor)

    @property
    def size_divisibility(self) -> int:
        """Return the number that height and width must be multiples of; 0 for any size."""
        return 0

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of every output."""
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
