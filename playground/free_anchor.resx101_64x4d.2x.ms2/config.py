"""FreeAnchor, ResNeXt-101-64x4d-FPN, short side 480, 512, ... 960, 2x.

Paper     arXiv:1909.02466, release of 10/2019, X-101-64x4d e2x: 45.6 AP (minival), 46.0 (test-dev);
          multi-scale test: 46.8 AP (minival), 47.3 (test-dev)
Expected  45.6 +- 0.3 AP on COCO val2017, 46.8 with the multi-scale test (not measured here)
Run       pods_train --num-gpus 8
          pods_test TEST.AUG.ENABLED True          # the paper's multi-scale test
Differs   backbone, schedule, scales
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import (
    COCO_2017,
    FREE_ANCHOR_TTA,
    MS_480_960,
    RESX101_64X4D,
    SCHEDULE_2X,
)
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

config = compose(
    FreeAnchorConfig,
    COCO_2017,
    RESX101_64X4D,
    MS_480_960,
    SCHEDULE_2X,
    FREE_ANCHOR_TTA,
    mrcnn("FREE_ANCHOR"),
    experiment=__file__,
)
