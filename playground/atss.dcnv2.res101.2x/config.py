"""ATSS, ResNet-101-FPN, DCNv2, short side 640 to 800, 2x.

Paper     arXiv:1912.02424, model table, dcnv2 R-101 2x: 46.1 AP (minival), 46.3 (test-dev)
Expected  46.1 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   backbone, deformable convolutions in c3-c5 and the towers, schedule, scales
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES101, SCALE_640_800, SCHEDULE_2X, dcnv2
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.atss import ATSSConfig

config = compose(
    ATSSConfig,
    COCO_2017,
    RES101,
    SCALE_640_800,
    SCHEDULE_2X,
    dcnv2("res3", "res4", "res5"),
    mrcnn("ATSS"),
    experiment=__file__,
)
