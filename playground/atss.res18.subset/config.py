"""ATSS, ResNet-18-FPN, overfit on a handful of real images, from scratch

Paper     none; a check that data, assignment, losses and decoding fit together
Expected  AP50 > 90 on the images that it was trained on
Measured  100 on the 4 real images that it was trained on
Recorded  2026-11-21, ace9973
Run       python ../../datasets/make_subset.py <instances.json> <images> --min-size 32
          pods_train
Differs   tested on its training images, one size, no flip, AdamW with a cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import overfit_trial
from cvpods_ext.methods.atss import ATSSConfig

register_coco_instances("subset_train", "subset/annotations/instances_train.json", "subset/train")

config = compose(
    ATSSConfig,
    overfit_trial("ATSS"),
    {"MODEL.ATSS.ANCHOR_SCALE": 4},
    experiment=__file__,
)
