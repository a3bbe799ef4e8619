"""FCOS, ResNet-50-FPN, single scale 800, 1x, mmdetection's recipe.

Paper     arXiv:1904.01355; mmdetection's R-50: 36.6 AP (minival); test-dev not published
Expected  36.6 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
          pods_test MODEL.WEIGHTS its_file.pth          # mmdetection's, converted on loading
Differs   (the only FCOS experiment on COCO);
          12 epochs there (drops after 8 and 11), 90k iterations here
"""

from cvpods.configs import FCOSConfig
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.configs.frameworks import mmdetection

config = compose(
    FCOSConfig,
    COCO_2017,
    RES50,
    SCALE_800,
    SCHEDULE_1X,
    mmdetection("FCOS", weights="open-mmlab://detectron/resnet50_caffe"),
    experiment=__file__,
)
