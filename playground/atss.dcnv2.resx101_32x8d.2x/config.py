"""ATSS, ResNeXt-101-32x8d-FPN, DCNv2, short side 640 to 800, 2x.

Paper     arXiv:1912.02424, model table, dcnv2 X-101-32x8d 2x: 47.7 AP (minival), 47.7 (test-dev)
Expected  47.7 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
          pods_test TEST.AUG.ENABLED True          # the authors' multi-scale test
Differs   backbone, deformable convolutions in c4-c5 and the towers, schedule, scales
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import (
    ATSS_TTA,
    COCO_2017,
    RESX101_32X8D,
    SCALE_640_800,
    SCHEDULE_2X,
    dcnv2,
)
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.atss import ATSSConfig

config = compose(
    ATSSConfig,
    COCO_2017,
    RESX101_32X8D,
    SCALE_640_800,
    SCHEDULE_2X,
    dcnv2("res4", "res5"),
    ATSS_TTA,
    mrcnn("ATSS"),
    experiment=__file__,
)
