"""FreeAnchor, ResNet-101-FPN, single scale 800, 1x, mmdetection's recipe.

Paper     arXiv:1909.02466; mmdetection's R-101: 40.3 AP (minival); test-dev not published
Expected  40.3 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   weights, colours, batch norms, anchors, P6 and P7, prior, warm-up, decay, gradient clip;
          12 epochs there (drops after 8 and 11), 90k iterations here
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES101, SCALE_800, SCHEDULE_1X
from cvpods_ext.configs.frameworks import mmdetection
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

config = compose(
    FreeAnchorConfig,
    COCO_2017,
    RES101,
    SCALE_800,
    SCHEDULE_1X,
    mmdetection("FREE_ANCHOR", weights="torchvision://resnet101"),
    experiment=__file__,
)
