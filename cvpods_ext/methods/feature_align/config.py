"""Settings of FeatureAlign (TCSVT 33(8), 2023), with all of its parts."""

from __future__ import annotations

from cvpods.configs import BaseDetectionConfig
from cvpods_ext.methods.auto_assign.config import METHOD, SHARED

_config_dict = {
    "MODEL": {
        "FEATURE_ALIGN": {
            **METHOD,
            # FF: divide the score that enters a bag by the misalignment score.
            "FEATURE_FILTER": True,
            # MDQ: "learned" mu and sigma per level and class, "fixed" at 0 and 1 (what the
            # published file amounts to), "shared" by the levels (AutoAssign's).
            "MDQ": "learned",
            # Weigh the prior's regulariser by quality (L_q); False: AutoAssign's loss_norm.
            "QUALITY_WEIGHT": True,
            # G-RFA: the last convolution of both towers is deformable (De-Subnet) ...
            "USE_DCN_IN_TOWER": True,
            # ... and a transformer encoder on the top map of the backbone.
            "ATTENTION": {
                "ENABLED": True,
                # Width, a multiple of 4 and of NUM_HEADS; a 1x1 convolution leads to it. None: the
                # channels of that map, 2048, and no convolution.
                "DIM": None,
                "NUM_LAYERS": 3,
                "NUM_HEADS": 8,
                "FEEDFORWARD_DIM": 2048,
                "DROPOUT": 0.1,
            },
        },
    },
}


class FeatureAlignConfig(BaseDetectionConfig):
    """Defaults of FeatureAlign."""

    def __init__(self, d: dict | None = None, **kwargs: object) -> None:
        super().__init__(d, **kwargs)
        self._register_configuration(SHARED)
        self._register_configuration(_config_dict)


config = FeatureAlignConfig()
