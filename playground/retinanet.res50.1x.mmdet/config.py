"""RetinaNet, ResNet-50-FPN, single scale 800, 1x, mmdetection's recipe.

Paper     arXiv:1708.02002; mmdetection's R-50: 36.5 AP (minival); test-dev not published
Expected  36.5 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
          pods_test MODEL.WEIGHTS its_file.pth          # mmdetection's, converted on loading
Differs   from retinanet.res50.1x: weights, colours, batch norms, anchors, P6 and P7, L1 loss,
          normaliser, best anchors of a box, warm-up, bias lr;
          12 epochs there (drops after 8 and 11), 90k iterations here
"""

from cvpods.configs import RetinaNetConfig
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.configs.frameworks import mmdetection

config = compose(
    RetinaNetConfig,
    COCO_2017,
    RES50,
    SCALE_800,
    SCHEDULE_1X,
    mmdetection("RETINANET", weights="torchvision://resnet50"),
    experiment=__file__,
)
