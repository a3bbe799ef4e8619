"""FeatureAlign, ResNet-101-FPN, short side 480, 512, ... 800, 2x.

Paper     TCSVT 33(8) 2023, authors' table, R-101 2x, with G-RFA, ms1: 46.9 AP (test-dev)
Expected  46.9 +- 0.3 AP on COCO test-dev, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Parts     FF, MDQ and G-RFA
Differs   backbone, schedule, scales
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, MS_480_800, RES101, SCHEDULE_2X
from cvpods_ext.methods.feature_align import FeatureAlignConfig

config = compose(
    FeatureAlignConfig, COCO_2017, RES101, MS_480_800, SCHEDULE_2X, experiment=__file__
)
