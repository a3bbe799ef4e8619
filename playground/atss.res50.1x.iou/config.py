"""ATSS's detector with RetinaNet's positives (IoU), ResNet-50-FPN, single scale 800, 1x.

Paper     arXiv:1912.02424, Sec. 3: 37.0 AP (minival): RetinaNet (#A=1) with FCOS' improvements
Expected  37.0 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   anchors with IoU >= 0.5 are positive, those below 0.4 negative, as in RetinaNet
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.atss import ATSSConfig

config = compose(
    ATSSConfig,
    COCO_2017,
    RES50,
    SCALE_800,
    SCHEDULE_1X,
    {"MODEL.ATSS.POSITIVE_TYPE": "IoU"},
    mrcnn("ATSS"),
    experiment=__file__,
)
