"""ATSS, ResNet-50-FPN, DCNv2, single scale 800, 1x.

Paper     arXiv:1912.02424, model table, dcnv2 R-50 1x: 43.2 AP (minival), 43.0 (test-dev)
Expected  43.2 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   deformable convolutions in c3-c5 and the towers
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X, dcnv2
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.atss import ATSSConfig

config = compose(
    ATSSConfig,
    COCO_2017,
    RES50,
    SCALE_800,
    SCHEDULE_1X,
    dcnv2("res3", "res4", "res5"),
    mrcnn("ATSS"),
    experiment=__file__,
)
