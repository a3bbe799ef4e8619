"""Settings of FreeAnchor (arXiv:1909.02466) that its authors trained with."""

from __future__ import annotations

from cvpods.configs import BaseDetectionConfig

_config_dict = {
    "MODEL": {
        "PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
        "RESNETS": {"OUT_FEATURES": ["res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res3", "res4", "res5"], "BLOCK_IN_FEATURES": "p5"},
        "ANCHOR_GENERATOR": {
            # Three octave scales per level.
            "SIZES": [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]],
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
            # As published: mid-cell, rounded. mmdetection and cvpods: 0.0, exact.
            "OFFSET": 0.5,
            "ROUNDED": True,
        },
        "FREE_ANCHOR": {
            "NUM_CLASSES": 80,
            "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
            # 3x3 convolutions in each tower.
            "NUM_CONVS": 4,
            # Norm of the towers: "" or "GN".
            "NORM": "",
            # Probability of "object" that the classifier starts from.
            "PRIOR_PROB": 0.02,
            # Weights of (dx, dy, dw, dh).
            "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
            # Anchors in the bag of a box (the paper's n).
            "POS_ANCHOR_TOPK": 50,
            # A predicted box of a higher IoU counts as having found an object (the paper's t).
            "BBOX_THRESHOLD": 0.6,
            # Weight of the positive loss; that of the negative one is 1 - alpha.
            "FOCAL_LOSS_ALPHA": 0.5,
            "FOCAL_LOSS_GAMMA": 2.0,
            # Factor of the box error in the matching likelihood (the paper's beta).
            "REG_WEIGHT": 0.75,
            # Error at which smooth L1 turns from quadratic to linear.
            "SMOOTH_L1_LOSS_BETA": 0.11,
            # If one anchor finds several objects of a class, True lets the last count, as cvpods
            # does, and False the surest.
            "LAST_WRITE": False,
            "SCORE_THRESH_TEST": 0.05,
            # Candidates per level before NMS.
            "TOPK_CANDIDATES_TEST": 1000,
            "NMS_THRESH_TEST": 0.5,
        },
    },
    "SOLVER": {
        "LR_SCHEDULER": {"WARMUP_METHOD": "linear", "WARMUP_FACTOR": 1 / 3, "WARMUP_ITERS": 500},
        "OPTIMIZER": {
            "BASE_LR": 0.01,
            "BIAS_LR_FACTOR": 2.0,
            "WEIGHT_DECAY": 1e-4,
            "WEIGHT_DECAY_NORM": 1e-4,
            "WEIGHT_DECAY_BIAS": 0.0,
        },
        "IMS_PER_BATCH": 16,
    },
}


class FreeAnchorConfig(BaseDetectionConfig):
    """Defaults of FreeAnchor."""

    def __init__(self, d: dict | None = None, **kwargs: object) -> None:
        super().__init__(d, **kwargs)
        self._register_configuration(_config_dict)


config = FreeAnchorConfig()
