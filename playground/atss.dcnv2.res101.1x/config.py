"""ATSS, ResNet-101-FPN, DCNv2, single scale 800, 1x.

Paper     none; a configuration of the authors' release without a model
Expected  not published; 16 images an iteration (not measured here)
Run       pods_train --num-gpus 8
Differs   backbone, deformable convolutions in c3-c5 and the towers
"""

from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import COCO_2017, RES101, SCALE_800, SCHEDULE_1X, dcnv2
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.atss import ATSSConfig

config = compose(
    ATSSConfig,
    COCO_2017,
    RES101,
    SCALE_800,
    SCHEDULE_1X,
    dcnv2("res3", "res4", "res5"),
    mrcnn("ATSS"),
    experiment=__file__,
)
