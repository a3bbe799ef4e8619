"""Keys of RetinaNet (arXiv:1708.02002) on a ResNet-FPN, with their defaults."""

from __future__ import annotations

from cvpods.configs.base_detection_config import BaseDetectionConfig

_config_dict = {
    "MODEL": {
        "RESNETS": {"OUT_FEATURES": ["res3", "res4", "res5"]},
        "FPN": {
            "IN_FEATURES": ["res3", "res4", "res5"],
            # RetinaNet computes P6 from C5.
            "BLOCK_IN_FEATURES": "res5",
        },
        "ANCHOR_GENERATOR": {
            # Three octave scales per level.
            "SIZES": [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]],
        },
        "RETINANET": {
            "NUM_CLASSES": 80,
            "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
            # 3x3 convolutions in each tower.
            "NUM_CONVS": 4,
            # Norm of the towers: "" or "GN".
            "NORM": "",
            # Anchors of an IoU below the first are background, above the second objects; those
            # between are ignored.
            "IOU_THRESHOLDS": [0.4, 0.5],
            "IOU_LABELS": [0, -1, 1],
            # Probability of "object" with which the classifier is initialised.
            "PRIOR_PROB": 0.01,
            # Divisor of the losses: "ema", the moving average of the positives of a process, or
            # "positives", those of the batch (at least 1 of each image), as mmdetection does.
            "LOSS_NORMALIZER": "ema",
            # True: an anchor that is the best of a box is matched to that box (mmdetection). False:
            # it is matched to the box with which it has the highest IoU.
            "REASSIGN_LOW_QUALITY": False,
            "SCORE_THRESH_TEST": 0.05,
            # Candidates per level before NMS.
            "TOPK_CANDIDATES_TEST": 1000,
            "NMS_THRESH_TEST": 0.5,
            # Weights of (dx, dy, dw, dh).
            "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
            "FOCAL_LOSS_GAMMA": 2.0,
            "FOCAL_LOSS_ALPHA": 0.25,
            # Error at which smooth L1 turns from quadratic to linear; 0 is L1.
            "SMOOTH_L1_LOSS_BETA": 0.1,
        },
    },
}


class RetinaNetConfig(BaseDetectionConfig):
    """Defaults of RetinaNet."""

    def __init__(self, d: dict | None = None, **kwargs: object) -> None:
        super().__init__(d, **kwargs)
        self._register_configuration(_config_dict)


config = RetinaNetConfig()
