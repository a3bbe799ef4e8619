"""FeatureAlign, ResNet-50-FPN, single scale 800, 1x.

Paper     TCSVT 33(8) 2023, authors' table, R-50 1x, with G-RFA: 43.5 AP (minival)
Expected  43.5 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Parts     FF, MDQ and G-RFA
Differs   (base experiment of this method)
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.methods.feature_align import FeatureAlignConfig

config = compose(FeatureAlignConfig, COCO_2017, RES50, SCALE_800, SCHEDULE_1X, experiment=__file__)
