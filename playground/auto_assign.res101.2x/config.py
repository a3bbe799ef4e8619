"""AutoAssign, ResNet-101-FPN, short side 640 or 800, 2x.

Paper     arXiv:2007.03496, R-101 2x: 44.5 AP (test-dev); the same in FeatureAlign's table
Expected  44.5 +- 0.3 AP on COCO test-dev, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   backbone, schedule, scales (those of FeatureAlign's configurations)
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES101, SCALE_640_OR_800, SCHEDULE_2X
from cvpods_ext.methods.auto_assign import AutoAssignConfig

config = compose(
    AutoAssignConfig, COCO_2017, RES101, SCALE_640_OR_800, SCHEDULE_2X, experiment=__file__
)
