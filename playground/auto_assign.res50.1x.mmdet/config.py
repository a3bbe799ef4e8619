"""AutoAssign, ResNet-50-FPN, single scale 800, 1x, mmdetection's recipe.

Paper     arXiv:2007.03496; mmdetection's R-50: 40.4 AP (minival); test-dev not published
Expected  40.4 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
          pods_test MODEL.WEIGHTS its_file.pth          # mmdetection's, converted on loading
Differs   from auto_assign.res50.1x: P6 from C5, prior, score, clip and cap before NMS;
          12 epochs there (drops after 8 and 11), 90k iterations here
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.configs.frameworks import mmdetection
from cvpods_ext.methods.auto_assign import AutoAssignConfig

config = compose(
    AutoAssignConfig,
    COCO_2017,
    RES50,
    SCALE_800,
    SCHEDULE_1X,
    mmdetection("AUTO_ASSIGN", weights="open-mmlab://detectron2/resnet50_caffe"),
    experiment=__file__,
)
