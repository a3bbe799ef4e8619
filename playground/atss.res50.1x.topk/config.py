"""ATSS's detector with the best 9 anchors by IoU (TOPK), ResNet-50-FPN, single scale 800, 1x.

Paper     none; an option of the authors' code, POSITIVE_TYPE TOPK
Expected  not published; 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   the 9 anchors with the highest IoU with a box, over all levels, are positive
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
    {"MODEL.ATSS.POSITIVE_TYPE": "TOPK"},
    mrcnn("ATSS"),
    experiment=__file__,
)
