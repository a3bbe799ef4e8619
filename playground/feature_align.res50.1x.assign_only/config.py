"""FeatureAlign (assignment only), ResNet-50-FPN, single scale 800, 1x.

Paper     TCSVT 33(8) 2023, authors' table, R-50 1x: 41.1 AP (minival)
Expected  41.1 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Parts     FF and MDQ alone
Differs   without attention in the pyramid and deformable convolutions in the towers
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import ASSIGN_ONLY, COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.methods.feature_align import FeatureAlignConfig

config = compose(
    FeatureAlignConfig, COCO_2017, RES50, SCALE_800, SCHEDULE_1X, ASSIGN_ONLY, experiment=__file__
)
