"""Detector of FeatureAlign (TCSVT 33(8), 2023; CAC 2022): AutoAssign with aligned features.

    FF     feature filter           loss.py, log_filtered_score
    MDQ    quality distributions    loss.py, quality and quality_loss; MDQ below
    G-RFA  attention in the pyramid attention.py
           De-Subnet                deformable last convolution of both towers (DCNv2)

"Assign only" in the table of results is FF and MDQ without G-RFA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cvpods.modeling.backbone import Backbone
from cvpods.structures import Instances
from cvpods.utils.errors import ConfigError
from cvpods_ext.methods.auto_assign.detector import AutoAssign, arguments
from cvpods_ext.methods.feature_align.attention import AttentionFPN
from cvpods_ext.methods.feature_align.loss import feature_align_loss

MDQ = ("learned", "fixed", "shared")


class FeatureAlign(AutoAssign):
    """FeatureAlign. It takes the arguments of AutoAssign, and:

    Args:
        mdq: source of mu and sigma of the quality distributions:
            "learned": they are parameters, (L, K, 2), as the paper says.
            "fixed": 0 and 1 forever. The published file creates them so that they are in no
                optimiser and in no checkpoint; training it amounts to this.
            "shared": parameters (K, 2) for all levels, AutoAssign's.
            It is not known with which of the first two the paper's numbers were reached.
        loss: further arguments of feature_align_loss.
    """

    def __init__(self, *, mdq: str = "learned", **kwargs: Any) -> None:
        if mdq not in MDQ:
            raise ConfigError(f"MODEL.FEATURE_ALIGN.MDQ must be one of {MDQ}, got {mdq!r}.")
        self.mdq = mdq
        super().__init__(**kwargs)

    def make_prior(self) -> None:
        """Create the quality distributions that `mdq` names; each starts as AutoAssign's prior."""
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
                "MODEL.FEATURE_ALIGN.ATTENTION.ENABLED is True, but the backbone has no attention: "
                "let net.py build it by build_resnet_attention_fpn_p3_p7, or set it to False."
            )
        given = arguments(cfg, method, backbone, deformable=method.USE_DCN_IN_TOWER)
        given["loss"] |= {
            "feature_filter": method.FEATURE_FILTER,
            "quality_weight": method.QUALITY_WEIGHT,
        }
        return cls(mdq=method.MDQ, **given)

    def losses(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Return the losses of feature_align_loss; counts are averaged over ranks."""
        shape = (len(priors), self.num_classes, 2)
        return feature_align_loss(
            **self.loss_inputs(predictions, priors, targets),
            level_sizes=[len(level) for level in priors],
            mu=self.mu.expand(shape),
            sigma=self.sigma.expand(shape),
        )
