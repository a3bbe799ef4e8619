"""FreeAnchor, ResNet-50-FPN, single scale 800, 1x.

Paper     arXiv:1909.02466, release of 10/2019, R-50 1x: 38.7 AP (minival), 38.7 (test-dev)
Expected  38.7 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   (base experiment of this method)
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

config = compose(
    FreeAnchorConfig,
    COCO_2017,
    RES50,
    SCALE_800,
    SCHEDULE_1X,
    mrcnn("FREE_ANCHOR"),
    experiment=__file__,
)
