"""FeatureAlign (assignment only), ResNet-101-FPN, short side 640 or 800, 2x.

Paper     TCSVT 33(8) 2023, authors' table, R-101 2x: 45.3 AP (test-dev)
Expected  45.3 +- 0.3 AP on COCO test-dev, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Parts     FF and MDQ alone
Differs   backbone, schedule, scales; neither attention nor deformable convolutions
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import (
    ASSIGN_ONLY,
    COCO_2017,
    RES101,
    SCALE_640_OR_800,
    SCHEDULE_2X,
)
from cvpods_ext.methods.feature_align import FeatureAlignConfig

config = compose(
    FeatureAlignConfig,
    COCO_2017,
    RES101,
    SCALE_640_OR_800,
    SCHEDULE_2X,
    ASSIGN_ONLY,
    experiment=__file__,
)
