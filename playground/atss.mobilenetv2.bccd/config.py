"""ATSS, MobileNetV2-FPN, blood cells (BCCD: RBC, WBC, Platelets), ImageNet weights.

Paper     none; published orientation for other detectors on this test split: AP50 about 90
Expected  AP 58, AP50 90 on the test split, measured (docs/benchmarks.md)
Run       pods_train MODEL.WEIGHTS <mobilenet_v2 features.pth>
          with bccd/{train,val,test} and bccd/annotations under a data root (datasets/README.md)
Differs   3 classes, 384-pixel images, narrow pyramid and towers, AdamW with a cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import ATSSConfig, compose
from cvpods_ext.configs.fragments import MOBILENETV2, data, test_scale, train_scales

for split in ("train", "val", "test"):
    register_coco_instances(
        f"bccd_{split}", f"bccd/annotations/instances_{split}.json", f"bccd/{split}"
    )

SMALL = {
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.ATSS.NUM_CONVS": 2,
    "TRAINER.CHANNELS_LAST": True,
}
FINE_TUNE = {
    "SOLVER.OPTIMIZER.NAME": "AdamW",
    "SOLVER.OPTIMIZER.BASE_LR": 1e-3,
    "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY": 0.05,
    "SOLVER.LR_SCHEDULER.NAME": "WarmupCosineLR",
    "SOLVER.LR_SCHEDULER.MAX_ITER": 300,
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 50,
    "SOLVER.LR_SCHEDULER.WARMUP_METHOD": "linear",
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.IMS_PER_DEVICE": 8,
    "SOLVER.CHECKPOINT_PERIOD": 100,
    "SEED": 0,
}

config = compose(
    ATSSConfig,
    data("bccd_train", "bccd_test", num_classes=3, method="ATSS"),
    MOBILENETV2,
    SMALL,
    FINE_TUNE,
    train_scales([320, 352, 384, 416, 448], 640),
    test_scale(384, 640),
    experiment=__file__,
)
