"""FreeAnchor, ResNet-101-FPN, short side 640, 672, ... 800, 2x.

Paper     arXiv:1909.02466, release of 10/2019, R-101 j2x: 42.7 AP (minival), 43.1 (test-dev)
Expected  42.7 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   backbone, schedule, scales
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, MS_640_800, RES101, SCHEDULE_2X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

config = compose(
    FreeAnchorConfig,
    COCO_2017,
    RES101,
    MS_640_800,
    SCHEDULE_2X,
    mrcnn("FREE_ANCHOR"),
    experiment=__file__,
)
