"""FreeAnchor, ResNet-18-FPN, a handful of real images, from scratch: can it learn them by heart?

Paper     none; a check that data, assignment, losses and decoding fit together
Expected  AP50 > 90 on the images that it was trained on
Run       python ../../datasets/make_subset.py <instances.json> <images> --min-size 32
          pods_train
Differs   tested on its training images, one size, no flip, AdamW with a cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import FreeAnchorConfig, compose
from cvpods_ext.configs.fragments import (
    FROM_SCRATCH,
    RES18,
    adamw_cosine,
    data,
    octave_anchors,
    small_p3_p6,
    test_scale,
)

register_coco_instances("subset_train", "subset/annotations/instances_train.json", "subset/train")

OVERFIT = {
    "INPUT.AUG.TRAIN_PIPELINES": test_scale(224, 336)["INPUT.AUG.TEST_PIPELINES"],
    "MODEL.RESNETS.NORM": "GN",
}

config = compose(
    FreeAnchorConfig,
    data("subset_train", "subset_train", num_classes=80, method="FREE_ANCHOR"),
    RES18,
    FROM_SCRATCH,
    small_p3_p6("FREE_ANCHOR"),
    octave_anchors([20, 40, 80, 160]),
    test_scale(224, 336),
    OVERFIT,
    adamw_cosine(250, lr=1e-3, batch=4, warmup=20, weight_decay=0.0),
    experiment=__file__,
)
