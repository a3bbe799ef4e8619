"""ATSS, ResNeXt-101-32x8d-FPN, short side 640 to 800, 2x.

Paper     arXiv:1912.02424, model table, X-101-32x8d 2x: 44.8 AP (minival), 45.1 (test-dev)
Expected  44.8 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   backbone, schedule, scales
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RESX101_32X8D, SCALE_640_800, SCHEDULE_2X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.atss import ATSSConfig

config = compose(
    ATSSConfig,
    COCO_2017,
    RESX101_32X8D,
    SCALE_640_800,
    SCHEDULE_2X,
    mrcnn("ATSS"),
    experiment=__file__,
)
