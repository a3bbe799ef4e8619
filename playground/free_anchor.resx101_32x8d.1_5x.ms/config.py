"""FreeAnchor, ResNeXt-101-32x8d-FPN, short side 640, 672, ... 800, 1.5x.

Paper     arXiv:1909.02466, first release, X-101 1.5x, 4 GPUs: 44.2 AP (minival), 44.8 (test-dev)
Expected  44.2 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   backbone, schedule, scales
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, MS_640_800, RESX101_32X8D, SCHEDULE_1_5X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

config = compose(
    FreeAnchorConfig,
    COCO_2017,
    RESX101_32X8D,
    MS_640_800,
    SCHEDULE_1_5X,
    mrcnn("FREE_ANCHOR"),
    experiment=__file__,
)
