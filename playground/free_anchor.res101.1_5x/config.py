"""FreeAnchor, ResNet-101-FPN, single scale 800, 1.5x.

Paper     arXiv:1909.02466, first release, R-101 1.5x, 4 GPUs: 41.3 AP (minival), 41.8 (test-dev)
Expected  41.3 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   backbone, schedule
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES101, SCALE_800, SCHEDULE_1_5X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

config = compose(
    FreeAnchorConfig,
    COCO_2017,
    RES101,
    SCALE_800,
    SCHEDULE_1_5X,
    mrcnn("FREE_ANCHOR"),
    experiment=__file__,
)
