"""Feature backbones of the timm package (optional: pip install cvpods-ext[timm])."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cvpods.layers import ShapeSpec
from cvpods.modeling.backbone.backbone import STAGE_STRIDES, Backbone
from cvpods.utils.errors import ConfigError
from cvpods.utils.timm import import_timm
from cvpods.utils.torch_private import batch_norm_class


class TimmBackbone(Backbone):
    """Network of timm with the outputs of its stages; state-dict keys are timm's, below "body.".

    Args:
        name: name of the network, without the tag of its weights: "resnet50", "convnext_tiny".
        out_features: names among stem (stride 2), res2 (4), res3 (8), res4 (16), res5 (32).
        norm: "FrozenBN" keeps the batch norms as the weights have them, "BN" trains them.
        freeze_at: stop gradients in the stem (>= 1) and in res2 .. resN (>= N).
        arguments: further arguments of timm.create_model.

    Raises:
        ConfigError: timm does not have the network, or the network lacks a map of one of the
            strides or cannot be frozen in part.
    """

    def __init__(
        self,
        *,
        name: str,
        out_features: Sequence[str],
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if norm not in ("BN", "FrozenBN"):
            raise ConfigError(
                f"The norm of a timm backbone must be 'BN' or 'FrozenBN'; got {norm!r}."
            )
        timm = import_timm()
        if not timm.is_model(name):
            near = timm.list_models(f"{name[:6]}*")[:8]
            raise ConfigError(
                f"MODEL.TIMM.NAME {name!r} is not a network of timm; similar names: {near}."
            )
        try:
            self.body = timm.create_model(name, features_only=True, **(arguments or {}))
        except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
            raise ConfigError(
                f"MODEL.TIMM.NAME {name!r} does not return feature maps ({error})."
            ) from error
        strides = self.body.feature_info.reduction()
        unknown = set(out_features) - {s for s, n in STAGE_STRIDES.items() if strides.count(n) == 1}
        if unknown or not out_features:
            raise ConfigError(
                f"{name} has maps of the strides {strides}; OUT_FEATURES {list(out_features)} are "
                f"of {[STAGE_STRIDES.get(feature, feature) for feature in out_features]}."
            )
        self._index = {feature: strides.index(STAGE_STRIDES[feature]) for feature in out_features}
        channels = self.body.feature_info.channels()
        self._out_features = list(out_features)
        self._out_feature_strides = {feature: STAGE_STRIDES[feature] for feature in out_features}
        self._out_feature_channels = {f: channels[index] for f, index in self._index.items()}
        self._channels_last = str(getattr(self.body, "output_fmt", "")).endswith("NHWC")
        self._fixed = self._freeze(name, freeze_at)
        if norm == "FrozenBN":
            self._fixed += [m for m in self.body.modules() if isinstance(m, batch_norm_class())]
        for module in self._fixed:
            module.requires_grad_(False)

    def _freeze(self, name: str, freeze_at: int) -> list[nn.Module]:
        """Return the network's parts up to the map of stride 2^freeze_at.

        Raises:
            ConfigError: the network does not have such parts.
        """
        if freeze_at < 1:
            return []
        info = self.body.feature_info
        levels = zip(info.module_name(), info.reduction(), strict=True)
        ends = [module for module, stride in levels if stride == 2**freeze_at]
        children = dict(self.body.named_children())
        if not ends or ends[-1].replace(".", "_") not in children:
            raise ConfigError(
                f"{name} does not have a part to freeze: set MODEL.BACKBONE.FREEZE_AT 0."
            )
        names = list(children)
        return [children[child] for child in names[: names.index(ends[-1].replace(".", "_")) + 1]]

    def train(self, mode: bool = True) -> TimmBackbone:
        super().train(mode)
        for module in self._fixed:
            module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return {name: (N, channels, H / stride, W / stride)}, given images (N, 3, H, W)."""
        try:
            maps = self.body(x)
        except AssertionError as error:
            raise ConfigError(
                f"This timm network refuses images of {tuple(x.shape[2:])} ({error}); some need "
                'MODEL.TIMM.ARGUMENTS, such as (("img_size", (800, 1344)),).'
            ) from error
        if self._channels_last:
            maps = [feature.permute(0, 3, 1, 2).contiguous() for feature in maps]
        return {feature: maps[index] for feature, index in self._index.items()}


def build_timm_backbone(cfg: Any, input_shape: ShapeSpec) -> TimmBackbone:
    """Build MODEL.TIMM with OUT_FEATURES, NORM and FREEZE_AT of the config."""
    return TimmBackbone(
        name=cfg.MODEL.TIMM.NAME,
        arguments=dict(cfg.MODEL.TIMM.ARGUMENTS),
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        norm=cfg.MODEL.RESNETS.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
