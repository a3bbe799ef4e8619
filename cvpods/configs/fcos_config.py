"""Keys of FCOS (arXiv:1904.01355) on a ResNet-FPN, with their defaults."""

from __future__ import annotations

from cvpods.configs.base_detection_config import BaseDetectionConfig

_config_dict = {
    "MODEL": {
        "RESNETS": {"OUT_FEATURES": ["res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res3", "res4", "res5"]},
        "SHIFT_GENERATOR": {
            # Points per location.
            "NUM_SHIFTS": 1,
            # Position of the first point, in strides: 0.0 at the corner, 0.5 in mid-cell.
            "OFFSET": 0.0,
        },
        "FCOS": {
            "NUM_CLASSES": 80,
            "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
            # 3x3 convolutions in each tower.
            "NUM_CONVS": 4,
            "FPN_STRIDES": [8, 16, 32, 64, 128],
            # Probability of "object" with which the classifier is initialised.
            "PRIOR_PROB": 0.01,
            # Predict centerness from the box tower instead of the class tower.
            "CENTERNESS_ON_REG": False,
            # Compute box distances as relu(x) * stride instead of exp(x).
            "NORM_REG_TARGETS": False,
            "SCORE_THRESH_TEST": 0.05,
            # Formula that combines class score and centerness, see
            # cvpods/modeling/meta_arch/scores.py.
            "SCORE_TYPE": "sqrt",
            # Candidates per level before NMS.
            "TOPK_CANDIDATES_TEST": 1000,
            "NMS_THRESH_TEST": 0.6,
            # Weights of the distances (left, top, right, bottom).
            "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
            "FOCAL_LOSS_GAMMA": 2.0,
            "FOCAL_LOSS_ALPHA": 0.25,
            # "iou", "linear_iou" or "giou".
            "IOU_LOSS_TYPE": "iou",
            # Only points within this many strides of the box centre are positive; 0 allows the
            # entire box.
            "CENTER_SAMPLING_RADIUS": 0.0,
            # For each level, the range of the largest distance of boxes assigned to it, in pixels.
            "OBJECT_SIZES_OF_INTEREST": [
                [-1, 64],
                [64, 128],
                [128, 256],
                [256, 512],
                [512, float("inf")],
            ],
            # Accepted for old experiments; normalisers are always averaged over all processes.
            "NORM_SYNC": True,
        },
    },
}


class FCOSConfig(BaseDetectionConfig):
    """Defaults of FCOS."""

    def __init__(self, d: dict | None = None, **kwargs: object) -> None:
        super().__init__(d, **kwargs)
        self._register_configuration(_config_dict)


config = FCOSConfig()
