"""FeatureAlign (TCSVT 33(8), 2023; CAC 2022): AutoAssign with aligned features.

    FF     feature filter           losses/feature_align.py, x_ij
    MDQ    quality distributions    losses/feature_align.py, G_ij and loss_quality; MDQ below
    G-RFA  attention in the pyramid modeling/attention.py
           De-Subnet                deformable last convolution of both towers (DCNv2)

"Assign only" in the table of results is FF and MDQ without G-RFA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cvpods.modeling.backbone import Backbone
from cvpods.structures import ImageList, Instances
from cvpods.utils.errors import ConfigError
from cvpods_ext.losses.feature_align import feature_align_loss
from cvpods_ext.modeling.attention import AttentionFPN, padding_mask
from cvpods_ext.modeling.auto_assign import AutoAssign, arguments

MDQ = ("learned", "fixed", "shared")


class FeatureAlign(AutoAssign):
    """FeatureAlign; arguments of AutoAssign, and:

    Args:
        mdq: where mu and sigma of the quality distributions come from:
            "learned": they are parameters, (L, K, 2), as the paper says.
            "fixed": 0 and 1 forever. The published file creates them so that they are in no
                optimiser and in no checkpoint; training it amounts to this.
            "shared": parameters (K, 2) for all levels, AutoAssign's.
            The paper's numbers do not say which of the first two they are of.
        loss: further arguments of feature_align_loss.
    """

    def __init__(self, *, mdq: str = "learned", **kwargs: Any) -> None:
        if mdq not in MDQ:
            raise ConfigError(f"MODEL.FEATURE_ALIGN.MDQ must be one of {MDQ}, got {mdq!r}.")
        self.mdq = mdq
        super().__init__(**kwargs)

    def make_prior(self) -> None:
        """Create the quality distributions, as `mdq` says; each starts as AutoAssign's."""
        if self.mdq == "shared":
            super().make_prior()
            return
        shape = (len(self.in_features), self.num_classes, 2)
        mu, sigma = torch.zeros(shape), torch.ones(shape)
        if self.mdq == "learned":
            self.mu, self.sigma = nn.Parameter(mu), nn.Parameter(sigma)
        else:
            self.register_buffer("mu", mu, persistent=False)
            self.register_buffer("sigma", sigma, persistent=False)

    @classmethod
    def from_config(cls, cfg: Any, backbone: Backbone) -> FeatureAlign:
        """Build FeatureAlign on `backbone` from cfg.MODEL.FEATURE_ALIGN."""
        method = cfg.MODEL.FEATURE_ALIGN
        if method.ATTENTION.ENABLED and not isinstance(backbone, AttentionFPN):
            raise ConfigError(
                "MODEL.FEATURE_ALIGN.ATTENTION.ENABLED is True, but the backbone has none: let "
                "net.py build it by build_resnet_attention_fpn_p3_p7, or set it to False."
            )
        given = arguments(cfg, method, backbone, deformable=method.USE_DCN_IN_TOWER)
        given["loss"] |= {
            "feature_filter": method.FEATURE_FILTER,
            "quality_weight": method.QUALITY_WEIGHT,
        }
        return cls(mdq=method.MDQ, **given)

    def features(self, images: ImageList) -> dict[str, Tensor]:
        """The pyramid's maps; attention, where it has any, leaves the padding out."""
        if not isinstance(self.backbone, AttentionFPN):
            return super().features(images)
        whole = tuple(images.tensor.shape[-2:])
        is_padded = isinstance(images.image_sizes, Tensor) or any(
            tuple(size) != whole for size in images.image_sizes
        )
        return self.backbone(images.tensor, padding_mask(images) if is_padded else None)

    def losses(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """The losses of bags, of background and of quality; counts are averaged over ranks."""
        shape = (len(priors), self.num_classes, 2)
        return feature_align_loss(
            **self.loss_inputs(predictions, priors, targets),
            level_sizes=[len(level) for level in priors],
            mu=self.mu.expand(shape),
            sigma=self.sigma.expand(shape),
        )
