"""ATSS's detector with FCOS' positives (SSC), ResNet-50-FPN, single scale 800, 1x.

Paper     arXiv:1912.02424, Sec. 3: 37.8 AP (minival): FCOS with all its improvements
Expected  37.8 +- 0.3 AP on COCO val2017, 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
          pods_train --num-gpus 8 MODEL.ATSS.REGRESSION_TYPE POINT   # from points, as FCOS does
Differs   locations inside a box are positive on the level to which its size is assigned, as in FCOS
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES50, SCALE_800, SCHEDULE_1X
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.atss import ATSSConfig

config = compose(
    ATSSConfig,
    COCO_2017,
    RES50,
    SCALE_800,
    SCHEDULE_1X,
    {"MODEL.ATSS.POSITIVE_TYPE": "SSC"},
    mrcnn("ATSS"),
    experiment=__file__,
)
