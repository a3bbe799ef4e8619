"""Attention of FeatureAlign's pyramid: a DETR encoder (arXiv:2005.12872) on its top map."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvpods.layers import ShapeSpec
from cvpods.layers.shape_spec import channels_of
from cvpods.modeling.backbone import (
    FPN,
    Backbone,
    build_mobilenetv2_backbone,
    build_resnet_backbone,
)
from cvpods.modeling.backbone.fpn import build_p3_p7_pyramid, pyramid_conv
from cvpods.structures import ImageList
from cvpods.utils.errors import ConfigError
from cvpods.utils.ranges import Range, check_ranges


def padding_mask(images: ImageList) -> Tensor:
    """Return (N, H, W) bool, true in the padding of each image; H and W of the padded batch."""
    height, width = images.tensor.shape[-2:]
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    sizes = torch.as_tensor(images.image_sizes, device=images.device)[:, :, None, None]
    return (rows >= sizes[:, 0]) | (columns >= sizes[:, 1])


def sine_position(padding: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """Return DETR's position code: half of the channels for y, then half for x.

    y runs from 2 pi / h to 2 pi over the h rows of an image that are not padding; channels 2k and
    2k + 1 of a half are sin and cos of y / temperature^(2k / (channels / 2)). The same for x.

    Args:
        padding: (N, H, W) bool, true in the padding to the right and at the bottom.
        channels: a multiple of 4.

    Returns:
        (N, H * W, channels) float32.
    """
    inside = (~padding).float()
    exponent = torch.arange(0, channels // 2, 2, device=padding.device) / (channels // 2)
    frequency = temperature**-exponent
    halves = []
    for axis in (1, 2):
        count = inside.cumsum(axis)
        angle = count / (count.select(axis, -1).unsqueeze(axis) + 1e-6) * (2 * math.pi)
        angles = angle[..., None] * frequency
        halves.append(torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(3))
    return torch.cat(halves, dim=-1).flatten(1, 2)


class EncoderLayer(nn.TransformerEncoderLayer):
    """Layer of torch (post-norm, ReLU) with a position code on queries and keys, as in DETR."""

    def forward(  # type: ignore[override]
        self, tokens: Tensor, position: Tensor, padding: Tensor | None
    ) -> Tensor:
        """Return tokens (N, T, C), given tokens and position (N, T, C) and padding (N, T) bool."""
        query = tokens + position
        attended, _ = self.self_attn(
            query, query, tokens, key_padding_mask=padding, need_weights=False
        )
        tokens = self.norm1(tokens + self.dropout1(attended))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(tokens))))
        return self.norm2(tokens + self.dropout2(hidden))


class AttentionEncoder(nn.Module):
    """Encoder that lets the cells of a feature map attend to each other, except its padding.

    Args:
        in_channels: channels of the map.
        dim: d of the encoder, to which a 1x1 convolution leads. None: in_channels, without one.
        num_layers, num_heads, feedforward_dim, dropout: of the encoder.

    Raises:
        ConfigError: d is not a multiple of 4, which the position code needs, and of num_heads.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        dim: int | None = None,
        num_layers: int = 3,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.dim = in_channels if dim is None else dim
        if self.dim % 4 or self.dim % num_heads:
            raise ConfigError(
                f"MODEL.FEATURE_ALIGN.ATTENTION.DIM must be a multiple of 4 and of NUM_HEADS "
                f"{num_heads}; got {dim}, a width of {self.dim}. (None is that of the backbone's "
                f"top map, {in_channels}.)"
            )
        self.input_proj = nn.Identity() if dim is None else nn.Conv2d(in_channels, dim, 1)
        self.layers = nn.ModuleList(
            EncoderLayer(self.dim, num_heads, feedforward_dim, dropout, batch_first=True)
            for _ in range(num_layers)
        )
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return the attended map (N, dim, H, W), given a map (N, C, H, W).

        Args:
            padding: (N, H', W') bool of the input images, H' and W' multiples of H and W: a cell
                is padding if its first pixel is. Such cells are not attended to and become 0, as
                everything beyond a map is (DETR keeps what was computed there). None: no padding.
        """
        x = self.input_proj(x)
        n, _, height, width = x.shape
        if padding is None:
            mask = x.new_zeros((n, height, width), dtype=torch.bool)
        else:
            mask = padding[:, :: padding.shape[1] // height, :: padding.shape[2] // width]
        position = sine_position(mask, self.dim).to(x.dtype)
        keys = None if padding is None else mask.flatten(1)
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens, position, keys)
        attended = tokens.transpose(1, 2).unflatten(2, (height, width))
        return attended if padding is None else attended.masked_fill(mask[:, None], 0.0)


class AttentionFPN(FPN):
    """FPN that sends its top bottom-up map through an AttentionEncoder, so that all levels see it.

    It takes the arguments of FPN, and:

    Args:
        attention: arguments of AttentionEncoder.
    """

    def __init__(self, bottom_up: Backbone, *args: Any, attention: dict[str, Any], **kwargs: Any):
        super().__init__(bottom_up, *args, **kwargs)
        self.top_feature = self.in_features[-1]
        if self.top_block is not None and self.top_block.in_feature == self.top_feature:
            raise ConfigError(
                f"With attention, MODEL.FPN.BLOCK_IN_FEATURES must be a level of the pyramid, "
                f"'p{self.levels[-1]}', not {self.top_feature!r}."
            )
        channels = channels_of(bottom_up.output_shape()[self.top_feature])
        self.encoder = AttentionEncoder(channels, **attention)
        if self.encoder.dim != channels:
            name = f"fpn_lateral{self.levels[-1]}"
            lateral = getattr(self, name)
            norm = kwargs.get("norm", "")
            setattr(self, name, pyramid_conv(self.encoder.dim, lateral.out_channels, 1, norm))

    def forward(self, x: Tensor, padding: Tensor | None = None) -> dict[str, Tensor]:
        """Return the maps of FPN.forward; padding (N, H, W) bool of the images, or None."""
        bottom_up = self.bottom_up(x)
        encoded = self.encoder(bottom_up[self.top_feature], padding)
        return self.pyramid({**bottom_up, self.top_feature: encoded})

    def maps_of(self, images: ImageList) -> dict[str, Tensor]:
        """Return the maps of a padded batch; the attention ignores the padding."""
        padded_size = tuple(images.tensor.shape[-2:])
        is_padded = isinstance(images.image_sizes, Tensor) or any(
            tuple(size) != padded_size for size in images.image_sizes
        )
        return self(images.tensor, padding_mask(images) if is_padded else None)


ATTENTION_RANGES = {
    "NUM_LAYERS": Range(1, whole=True),
    "NUM_HEADS": Range(1, whole=True),
    "FEEDFORWARD_DIM": Range(1, whole=True),
    "DROPOUT": Range(0, 1),
}


def build_resnet_attention_fpn_p3_p7(cfg: Any) -> FPN:
    """Build P3 - P7 on a ResNet, with attention if MODEL.FEATURE_ALIGN.ATTENTION.ENABLED."""
    image = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    return attention_fpn(cfg, build_resnet_backbone(cfg, image))


def build_mobilenetv2_attention_fpn_p3_p7(cfg: Any) -> FPN:
    """Build P3 - P7 on MobileNetV2, with attention if MODEL.FEATURE_ALIGN.ATTENTION.ENABLED."""
    image = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    return attention_fpn(cfg, build_mobilenetv2_backbone(cfg, image))


def attention_fpn(cfg: Any, bottom_up: Backbone) -> FPN:
    """Build P3 - P7 on `bottom_up`, as MODEL.FPN and MODEL.FEATURE_ALIGN.ATTENTION say."""
    attention = cfg.MODEL.FEATURE_ALIGN.ATTENTION
    if not attention.ENABLED:
        return build_p3_p7_pyramid(cfg, bottom_up)
    ranges = dict(ATTENTION_RANGES)
    if attention.DIM is not None:
        ranges["DIM"] = Range(1, whole=True)
    check_ranges("MODEL.FEATURE_ALIGN.ATTENTION", attention, ranges)
    arguments = {
        "dim": attention.DIM,
        "num_layers": attention.NUM_LAYERS,
        "num_heads": attention.NUM_HEADS,
        "feedforward_dim": attention.FEEDFORWARD_DIM,
        "dropout": attention.DROPOUT,
    }
    return build_p3_p7_pyramid(cfg, bottom_up, partial(AttentionFPN, attention=arguments))
