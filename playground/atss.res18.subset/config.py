"""ATSS, ResNet-18-FPN, a handful of real images, from scratch: can it learn them by heart?

Paper     none; a check that data, assignment, losses and decoding fit together
Expected  AP50 > 90 on the images that it was trained on
Run       python ../../datasets/make_subset.py <instances.json> <images> --min-size 32
          pods_train
Differs   tested on its training images, one size, no flip, AdamW with a cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import ATSSConfig, compose
from cvpods_ext.configs.fragments import FROM_SCRATCH, RES18, data, test_scale

register_coco_instances("subset_train", "subset/annotations/instances_train.json", "subset/train")

OVERFIT = {
    "INPUT.AUG.TRAIN_PIPELINES": test_scale(224, 336)["INPUT.AUG.TEST_PIPELINES"],
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4"],
    "MODEL.FPN.BLOCK_IN_FEATURES": "p4",
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.ATSS.IN_FEATURES": ["p3", "p4", "p5", "p6"],
    "MODEL.ATSS.NUM_CONVS": 2,
    "MODEL.ATSS.ANCHOR_SCALE": 4,
    "SOLVER.OPTIMIZER.NAME": "AdamW",
    "SOLVER.OPTIMIZER.BASE_LR": 1e-3,
    "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY": 0.0,
    "SOLVER.LR_SCHEDULER.NAME": "WarmupCosineLR",
    "SOLVER.LR_SCHEDULER.MAX_ITER": 250,
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 20,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.IMS_PER_DEVICE": 4,
}

config = compose(
    ATSSConfig,
    data("subset_train", "subset_train", num_classes=80, method="ATSS"),
    RES18,
    FROM_SCRATCH,
    test_scale(224, 336),
    OVERFIT,
    experiment=__file__,
)
