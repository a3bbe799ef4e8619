"""FreeAnchor, ResNeXt-101-64x4d-FPN, short side 640, 672, ... 800, 2x.

Paper     arXiv:1909.02466, release of 10/2019, X-101-64x4d j2x: 44.5 AP (minival), 44.9 (test-dev)
Expected  44.5 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   backbone, schedule, scales
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, MS_640_800, RESX101_64X4D, SCHEDULE_2X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

config = compose(
    FreeAnchorConfig,
    COCO_2017,
    RESX101_64X4D,
    MS_640_800,
    SCHEDULE_2X,
    mrcnn("FREE_ANCHOR"),
    experiment=__file__,
)
