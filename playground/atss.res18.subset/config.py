"""ATSS, ResNet-18-FPN, a handful of real images, from scratch: can it learn them by heart?

Paper     none; a check that data, assignment, losses and decoding fit together
Expected  AP50 > 90 on the images that it was trained on
Measured  100 on the 4 real images that it was trained on
Run       python ../../datasets/make_subset.py <instances.json> <images> --min-size 32
          pods_train
Differs   tested on its training images, one size, no flip, AdamW with a cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import ATSSConfig, compose
from cvpods_ext.configs.fragments import (
    FROM_SCRATCH,
    RES18,
    adamw_cosine,
    data,
    small_p3_p6,
    test_scale,
)

register_coco_instances("subset_train", "subset/annotations/instances_train.json", "subset/train")

OVERFIT = {
    "INPUT.AUG.TRAIN_PIPELINES": test_scale(224, 336)["INPUT.AUG.TEST_PIPELINES"],
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.ATSS.ANCHOR_SCALE": 4,
}

config = compose(
    ATSSConfig,
    data("subset_train", "subset_train", num_classes=80, method="ATSS"),
    RES18,
    FROM_SCRATCH,
    small_p3_p6("ATSS"),
    test_scale(224, 336),
    OVERFIT,
    adamw_cosine(250, lr=1e-3, batch=4, warmup=20, weight_decay=0.0),
    experiment=__file__,
)
