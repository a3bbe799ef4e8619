"""ATSS, ResNet-101-FPN, short side 640 to 800, 2x.

Paper     arXiv:1912.02424, model table, R-101 2x: 43.5 AP (minival), 43.6 (test-dev)
Expected  43.5 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   backbone, schedule, scales
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES101, SCALE_640_800, SCHEDULE_2X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.atss import ATSSConfig

config = compose(
    ATSSConfig, COCO_2017, RES101, SCALE_640_800, SCHEDULE_2X, mrcnn("ATSS"), experiment=__file__
)
