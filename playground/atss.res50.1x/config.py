"""ATSS, ResNet-50-FPN, single scale 800, 1x.

Paper     arXiv:1912.02424, model table, R-50 1x: 39.3 AP (minival), 39.3 (test-dev)
Expected  39.3 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
          pods_train --num-gpus 8 MODEL.ATSS.TOPK 7     # the paper's table over k: 3, 5, ... 19
Differs   (base experiment of this method)
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.atss import ATSSConfig

config = compose(
    ATSSConfig, COCO_2017, RES50, SCALE_800, SCHEDULE_1X, mrcnn("ATSS"), experiment=__file__
)
