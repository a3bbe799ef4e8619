"""FeatureAlign (assignment only), ResNeXt-101-64x4d-FPN, short side 640 or 800, 2x.

Paper     TCSVT 33(8) 2023, authors' table, X-101-64x4d 2x: 47.2 AP (test-dev)
Expected  47.2 +- 0.3 AP on COCO test-dev, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Parts     FF and MDQ alone
Differs   backbone, schedule, scales; neither attention nor deformable convolutions
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import (
    ASSIGN_ONLY,
    COCO_2017,
    RESX101_64X4D,
    SCALE_640_OR_800,
    SCHEDULE_2X,
)
from cvpods_ext.methods.feature_align import FeatureAlignConfig

config = compose(
    FeatureAlignConfig,
    COCO_2017,
    RESX101_64X4D,
    SCALE_640_OR_800,
    SCHEDULE_2X,
    ASSIGN_ONLY,
    experiment=__file__,
)
