"""Head that dense detectors share: two towers of convolutions over every pyramid level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import cvpods.layers
from cvpods.layers import get_norm
from cvpods.modeling.nn_utils.weight_init import normal_fill
from cvpods.utils.errors import ConfigError


class Scale(nn.Module):
    """Layer that multiplies by one learned factor."""

    def __init__(self, init_value: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([init_value], dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class DenseHead(nn.Module):
    """Class tower and box tower of 3x3 convolutions, then 3x3 predictors; shared over levels.

    Every convolution starts from N(0, 0.01) and bias 0, the class bias from -log((1 - p) / p). In a
    deformable layer, the convolution that predicts its offsets starts so, but not its own weight
    (as in the code of ATSS and FeatureAlign).

    Args:
        in_channels: channels of every feature map, and of the towers.
        num_convs: convolutions in each tower.
        num_classes, num_anchors: K and A; predictors have A * K and A * 4 channels.
        prior_prob: p, the probability of "object" that the classifier starts from.
        norm: norm of the towers, "" or "GN".
        quality: name of a third predictor with A channels ("centerness", "obj_score"), or None.
        quality_on_box_tower: that predictor reads the box tower, otherwise the class tower.
        num_scales: levels whose box predictions have a learned factor (FCOS); 0 for none.
        deformable: the last convolution of both towers is DCNv2.
        box_bias: initial bias of the box predictor.

    Raises:
        ConfigError: deformable towers without a convolution.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_convs: int,
        num_classes: int,
        num_anchors: int = 1,
        prior_prob: float = 0.01,
        norm: str = "",
        quality: str | None = None,
        quality_on_box_tower: bool = True,
        num_scales: int = 0,
        deformable: bool = False,
        box_bias: float = 0.0,
    ) -> None:
        super().__init__()
        if deformable and num_convs < 1:
            raise ConfigError(
                f"NUM_CONVS must be at least 1 in a deformable tower; got {num_convs}."
            )
        self.quality = quality
        self.quality_on_box_tower = quality_on_box_tower
        self.cls_subnet = _tower(in_channels, num_convs, norm, deformable)
        self.bbox_subnet = _tower(in_channels, num_convs, norm, deformable)
        self.cls_score = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        if quality is not None:
            self.add_module(quality, nn.Conv2d(in_channels, num_anchors, 3, padding=1))
        self.scales: nn.ModuleList | None = None
        if num_scales:
            self.scales = nn.ModuleList(Scale() for _ in range(num_scales))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                normal_fill(module)
        for predictor, bias in (
            (self.cls_score, -math.log((1 - prior_prob) / prior_prob)),
            (self.bbox_pred, box_bias),
        ):
            if predictor.bias is not None:  # always; nn.Conv2d's type does not tell
                nn.init.constant_(predictor.bias, bias)

    def forward(self, features: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Predict from the levels' maps (N, C, H, W).

        Returns:
            "cls_logits" [(N, A * K, H, W)] * L, "box_deltas" [(N, A * 4, H, W)] * L and, under its
            own name, the quality predictor [(N, A, H, W)] * L.
        """
        names = ["cls_logits", "box_deltas"] + ([self.quality] if self.quality else [])
        outputs: dict[str, list[Tensor]] = {name: [] for name in names}
        for level, feature in enumerate(features):
            cls_feature = self.cls_subnet(feature)
            box_feature = self.bbox_subnet(feature)
            boxes = self.bbox_pred(box_feature)
            outputs["cls_logits"].append(self.cls_score(cls_feature))
            outputs["box_deltas"].append(
                boxes if self.scales is None else self.scales[level](boxes)
            )
            if self.quality:
                source = box_feature if self.quality_on_box_tower else cls_feature
                outputs[self.quality].append(getattr(self, self.quality)(source))
        return outputs


def _tower(channels: int, num_convs: int, norm: str, deformable: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(num_convs):
        kind = cvpods.layers.DFConv2d if deformable and i == num_convs - 1 else nn.Conv2d
        layers.append(kind(channels, channels, 3, padding=1))
        if (normalise := get_norm(norm, channels)) is not None:
            layers.append(normalise)
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
