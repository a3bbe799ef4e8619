"""ATSS, ResNet-50-FPN, single scale 800, 1x, mmdetection's recipe.

Paper     arXiv:1912.02424; mmdetection's R-50: 39.4 AP (minival); test-dev not published
Expected  39.4 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
          pods_test MODEL.WEIGHTS its_file.pth          # mmdetection's, converted on loading
Differs   from atss.res50.1x: weights, colours, batch norms, anchors, P7, score, warm-up;
          12 epochs there (drops after 8 and 11), 90k iterations here
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.configs.frameworks import mmdetection
from cvpods_ext.methods.atss import ATSSConfig

config = compose(
    ATSSConfig,
    COCO_2017,
    RES50,
    SCALE_800,
    SCHEDULE_1X,
    mmdetection("ATSS", weights="torchvision://resnet50"),
    experiment=__file__,
)
