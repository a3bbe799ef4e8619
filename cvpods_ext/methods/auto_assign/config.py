"""Settings of AutoAssign (arXiv:2007.03496) that its authors trained with."""

from __future__ import annotations

from cvpods.configs import BaseDetectionConfig

# Settings that AutoAssign and FeatureAlign, which builds on it, share.
METHOD = {
    "NUM_CLASSES": 80,
    "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    # 3x3 convolutions in each tower.
    "NUM_CONVS": 4,
    # Probability of "object" that the classifier starts from.
    "PRIOR_PROB": 0.02,
    # Position of the first location, in strides: 0.0 at the corner, as published.
    "POINT_OFFSET": 0.0,
    # Weight of the positive loss; that of the others is 1 - alpha.
    "FOCAL_LOSS_ALPHA": 0.25,
    "FOCAL_LOSS_GAMMA": 2.0,
    # Factor of the GIoU loss in the score of a location (the paper's lambda).
    "REG_WEIGHT": 5.0,
    "SCORE_THRESH_TEST": 0.05,
    # Combination of class score and objectness into a detection's score, see
    # cvpods/modeling/meta_arch/scores.py.
    "SCORE_TYPE": "product",
    # Candidates per level before NMS ...
    "TOPK_CANDIDATES_TEST": 1000,
    # ... and never more than the level has locations.
    "CAP_AT_LOCATIONS": True,
    # Clip boxes to the image before NMS, not only after it.
    "CLIP_BEFORE_NMS": False,
    "NMS_THRESH_TEST": 0.6,
}

# Backbone, pyramid and solver of both.
SHARED = {
    "MODEL": {
        "PIXEL_MEAN": [103.53, 116.28, 123.675],
        "RESNETS": {"OUT_FEATURES": ["res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res3", "res4", "res5"], "BLOCK_IN_FEATURES": "p5"},
    },
    "SOLVER": {
        "LR_SCHEDULER": {"WARMUP_METHOD": "linear", "WARMUP_FACTOR": 1e-3, "WARMUP_ITERS": 1000},
        "OPTIMIZER": {
            "BASE_LR": 0.01,
            "BIAS_LR_FACTOR": 1.0,
            "WEIGHT_DECAY": 1e-4,
            "WEIGHT_DECAY_NORM": 0.0,
            "WEIGHT_DECAY_BIAS": None,
        },
        "IMS_PER_BATCH": 16,
    },
}


class AutoAssignConfig(BaseDetectionConfig):
    """Defaults of AutoAssign."""

    def __init__(self, d: dict | None = None, **kwargs: object) -> None:
        super().__init__(d, **kwargs)
        self._register_configuration(SHARED)
        self._register_configuration({"MODEL": {"AUTO_ASSIGN": METHOD}})


config = AutoAssignConfig()
