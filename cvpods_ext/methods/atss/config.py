"""Settings of ATSS (arXiv:1912.02424) that its authors trained with.

Their framework's arithmetic (boxes with "+1", its anchors and resizing) comes with a fragment,
`mrcnn("ATSS")` of cvpods_ext.configs.frameworks, as in playground/atss.res50.1x.
"""

from __future__ import annotations

from cvpods.configs import BaseDetectionConfig

_config_dict = {
    "MODEL": {
        "PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
        "RESNETS": {"OUT_FEATURES": ["res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res3", "res4", "res5"], "BLOCK_IN_FEATURES": "p5"},
        "ATSS": {
            "NUM_CLASSES": 80,
            "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
            # 3x3 convolutions in each tower.
            "NUM_CONVS": 4,
            # Probability of "object" that the classifier starts from.
            "PRIOR_PROB": 0.01,
            # Side of the one square anchor, in strides (the paper's 8S).
            "ANCHOR_SCALE": 8,
            # Centre of the first anchor, in strides: 0.5 as published; mmdetection and cvpods: 0.0.
            "ANCHOR_OFFSET": 0.5,
            # Pixels by which the centres lie further right and down. As published, with
            # MODEL.PLUS_ONE: 0.5.
            "ANCHOR_SHIFT": 0.0,
            # The rule that makes anchors positive: "ATSS", or for the paper's comparisons "IoU"
            # (RetinaNet's thresholds), "SSC" (FCOS's spatial and scale constraint), "TOPK" (best
            # by IoU).
            "POSITIVE_TYPE": "ATSS",
            # Candidates per level and box (the paper's only hyper-parameter, k); TOPK: per box.
            "TOPK": 9,
            # Start of the regression: "BOX", the anchor, or "POINT", its centre (FCOS).
            "REGRESSION_TYPE": "BOX",
            # BOX: weights of (dx, dy, dw, dh).
            "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
            # The last convolution of both towers is deformable (DCNv2).
            "USE_DCN_IN_TOWER": False,
            # Factor of the box loss.
            "REG_WEIGHT": 2.0,
            "FOCAL_LOSS_GAMMA": 2.0,
            "FOCAL_LOSS_ALPHA": 0.25,
            "SCORE_THRESH_TEST": 0.05,
            # Combination of class score and centerness into a detection's score, see
            # cvpods/modeling/meta_arch/scores.py.
            "SCORE_TYPE": "sqrt",
            # Candidates per level before NMS.
            "TOPK_CANDIDATES_TEST": 1000,
            "NMS_THRESH_TEST": 0.6,
        },
    },
    "SOLVER": {
        "LR_SCHEDULER": {"WARMUP_METHOD": "constant", "WARMUP_FACTOR": 1 / 3, "WARMUP_ITERS": 500},
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


class ATSSConfig(BaseDetectionConfig):
    """Defaults of ATSS with continuous boxes; see the top of this file for the authors' "+1"."""

    def __init__(self, d: dict | None = None, **kwargs: object) -> None:
        super().__init__(d, **kwargs)
        self._register_configuration(_config_dict)


config = ATSSConfig()
