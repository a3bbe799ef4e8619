"""FreeAnchor, ResNet-101-FPN, short side 480, 512, ... 960, 2x.

Paper     arXiv:1909.02466, release of 10/2019, R-101 e2x: 43.2 AP (minival), 43.9 (test-dev);
          multi-scale test: 44.7 AP (minival), 45.2 (test-dev)
Expected  43.2 +- 0.3 AP on COCO val2017, 44.7 with the multi-scale test (not measured here)
Run       pods_train --num-gpus 8
          pods_test TEST.AUG.ENABLED True          # the paper's multi-scale test
Differs   backbone, schedule, scales
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, FREE_ANCHOR_TTA, MS_480_960, RES101, SCHEDULE_2X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

config = compose(
    FreeAnchorConfig,
    COCO_2017,
    RES101,
    MS_480_960,
    SCHEDULE_2X,
    FREE_ANCHOR_TTA,
    mrcnn("FREE_ANCHOR"),
    experiment=__file__,
)
