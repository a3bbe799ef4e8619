"""FreeAnchor, ResNeXt-101-32x4d-FPN, single scale 800, 1x, mmdetection's recipe.

Paper     arXiv:1909.02466; mmdetection's X-101-32x4d: 41.9 AP (minival); test-dev not published
Expected  41.9 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   weights, colours, batch norms, anchors, P6 and P7, prior, warm-up, decay, gradient clip;
          12 epochs there (drops after 8 and 11), 90k iterations here
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import (
    COCO_2017,
    RESX101_32X4D,
    SCALE_800,
    SCHEDULE_1X,
)
from cvpods_ext.configs.frameworks import mmdetection
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

config = compose(
    FreeAnchorConfig,
    COCO_2017,
    RESX101_32X4D,
    SCALE_800,
    SCHEDULE_1X,
    mmdetection("FREE_ANCHOR", weights=RESX101_32X4D["MODEL.WEIGHTS"]),
    experiment=__file__,
)
