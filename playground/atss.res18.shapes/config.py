"""ATSS, ResNet-18-FPN, the embedded shapes data set, from scratch: the quick start.

Paper     none; a small network on small synthetic images, to try things out on a CPU
Expected  AP >= 50 on the held-out images, in under 10 minutes on 2 CPU cores
Run       python ../../datasets/make_shapes.py && pods_train
Differs   6 classes, 160-pixel images, a narrow pyramid P3-P6 on res3 and res4, AdamW with a
          cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import ATSSConfig, compose
from cvpods_ext.configs.fragments import FROM_SCRATCH, RES18, data, test_scale, train_scales

for split in ("train", "val"):
    register_coco_instances(
        f"shapes_{split}", f"shapes/annotations/instances_{split}.json", f"shapes/{split}"
    )

SMALL = {
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4"],
    "MODEL.FPN.BLOCK_IN_FEATURES": "p4",
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.ATSS.IN_FEATURES": ["p3", "p4", "p5", "p6"],
    "MODEL.ATSS.NUM_CONVS": 2,
    "MODEL.ATSS.ANCHOR_SCALE": 4,
}
QUICK = {
    "SOLVER.OPTIMIZER.NAME": "AdamW",
    "SOLVER.OPTIMIZER.BASE_LR": 1.5e-3,
    "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY": 0.05,
    "SOLVER.LR_SCHEDULER.NAME": "WarmupCosineLR",
    "SOLVER.LR_SCHEDULER.MAX_ITER": 500,
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 50,
    "SOLVER.LR_SCHEDULER.WARMUP_METHOD": "linear",
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.IMS_PER_DEVICE": 8,
    "SOLVER.CHECKPOINT_PERIOD": 100,
    "SEED": 0,
}

config = compose(
    ATSSConfig,
    data("shapes_train", "shapes_val", num_classes=6, method="ATSS"),
    RES18,
    FROM_SCRATCH,
    SMALL,
    QUICK,
    train_scales([160], 256),
    test_scale(160, 256),
    experiment=__file__,
)
