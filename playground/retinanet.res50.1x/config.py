"""RetinaNet, ResNet-50-FPN, single scale 800, 1x: the baseline of FreeAnchor's paper.

Paper     arXiv:1909.02466, NMS recall: RetinaNet 81.8, FreeAnchor 83.8 (quoted from memory,
          not verified)
Expected  about 36 AP on COCO val2017, as in other frameworks at 1x (not measured here)
Run       pods_train --num-gpus 8
          pods_test --nms-recall          # here and in free_anchor.res50.1x: the comparison
Differs   from free_anchor.res50.1x: assignment and loss, with cvpods' box coder (weights 1), prior
          0.01 and normaliser (moving average of objects); anchors, network, schedule are alike
"""

from cvpods.configs import RetinaNetConfig
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import (
    COCO_2017,
    RES50,
    RETINANET_LIKE_FREE_ANCHOR,
    SCALE_800,
    SCHEDULE_1X,
)

config = compose(
    RetinaNetConfig,
    RETINANET_LIKE_FREE_ANCHOR,
    COCO_2017,
    RES50,
    SCALE_800,
    SCHEDULE_1X,
    experiment=__file__,
)
