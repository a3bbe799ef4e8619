"""MobileNetV2 (arXiv:1801.04381): torchvision's network as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cvpods.layers import FrozenBatchNorm2d, ShapeSpec
from cvpods.modeling.backbone.backbone import STAGE_STRIDES, Backbone, freeze
from cvpods.utils.errors import ConfigError

# Stage -> index of its last block in torchvision's `features`; each halves the resolution.
_LAST_BLOCK = {"stem": 1, "res2": 3, "res3": 6, "res4": 13, "res5": 17}


class MobileNetV2(Backbone):
    """MobileNetV2 without its last 1x1 convolution; state-dict keys are torchvision's.

    Args:
        out_features: names among stem (stride 2), res2 (4), res3 (8), res4 (16), res5 (32).
        norm: "BN" or "FrozenBN".
        freeze_at: stop gradients in the stem (>= 1) and in res2 .. resN (>= N).

    Raises:
        ConfigError: norm or out_features does not fit.
    """

    def __init__(
        self, *, out_features: Sequence[str], norm: str = "FrozenBN", freeze_at: int = 0
    ) -> None:
        super().__init__()
        if norm not in ("BN", "FrozenBN"):
            raise ConfigError(f"The norm of MobileNetV2 must be 'BN' or 'FrozenBN'; got {norm!r}.")
        if not out_features or set(out_features) - set(_LAST_BLOCK):
            raise ConfigError(
                f"Features of MobileNetV2 must be some of {list(_LAST_BLOCK)}; got "
                f"{list(out_features)}."
            )
        from torchvision.models import mobilenet_v2

        last = max(_LAST_BLOCK[name] for name in out_features)
        self.features = mobilenet_v2(weights=None).features[: last + 1]
        self._out_features = list(out_features)
        self._out_feature_strides = {name: STAGE_STRIDES[name] for name in out_features}
        self._out_feature_channels = {
            name: self.features[_LAST_BLOCK[name]].out_channels for name in out_features
        }
        stages = {name: int(name[3:]) if name != "stem" else 1 for name in _LAST_BLOCK}
        frozen = [_LAST_BLOCK[name] for name, number in stages.items() if freeze_at >= number]
        for index in range(min(max(frozen, default=-1), last) + 1):
            self.features[index] = freeze(self.features[index])
        if norm == "FrozenBN":
            self.features = FrozenBatchNorm2d.convert_frozen_batchnorm(self.features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return {name: (N, channels, H / stride, W / stride)}, given images (N, 3, H, W)."""
        outputs_of = {_LAST_BLOCK[name]: name for name in self._out_features}
        outputs = {}
        for index, block in enumerate(self.features):
            x = block(x)
            if index in outputs_of:
                outputs[outputs_of[index]] = x
        return outputs


def build_mobilenetv2_backbone(cfg: Any, input_shape: ShapeSpec) -> MobileNetV2:
    """Build MobileNetV2 with OUT_FEATURES, NORM and FREEZE_AT of the config."""
    return MobileNetV2(
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        norm=cfg.MODEL.RESNETS.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
