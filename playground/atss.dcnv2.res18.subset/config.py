"""ATSS, ResNet-18-FPN, DCNv2, overfit on a handful of real images, from scratch

Paper     none; a check that deformable convolutions train and resume on real images
Expected  AP50 > 90 on the images that it was trained on
Measured  100 on the 4 real images that it was trained on
Recorded  2026-11-21, 01cd0f0
Run       python ../../datasets/make_subset.py <instances.json> <images> --min-size 32
          pods_train
Differs   from atss.res18.subset: deformable convolutions in c4 and the towers
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import dcnv2, overfit_trial
from cvpods_ext.methods.atss import ATSSConfig

register_coco_instances("subset_train", "subset/annotations/instances_train.json", "subset/train")

config = compose(
    ATSSConfig,
    overfit_trial("ATSS"),
    dcnv2("res4"),
    {"MODEL.ATSS.ANCHOR_SCALE": 4},
    experiment=__file__,
)
