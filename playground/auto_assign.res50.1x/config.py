"""AutoAssign, ResNet-50-FPN, single scale 800, 1x.

Paper     arXiv:2007.03496, authors' model, R-50 1x: 40.5 AP (minival); 40.4 in FeatureAlign's table
Expected  40.5 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   (base experiment of this method)
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.methods.auto_assign import AutoAssignConfig

config = compose(AutoAssignConfig, COCO_2017, RES50, SCALE_800, SCHEDULE_1X, experiment=__file__)
