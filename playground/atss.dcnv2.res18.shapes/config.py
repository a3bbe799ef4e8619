"""ATSS, ResNet-18-FPN, DCNv2, the embedded shapes data set, from scratch.

Paper     none; a check of what deformable convolutions gain and cost
Expected  AP not below that of atss.res18.shapes, which has the same budget
Measured  53.8 (shapes, 150 held-out images; atss.res18.shapes in the same setting: 52.7)
Recorded  2026-11-21, a2cf486
Run       python ../../datasets/make_shapes.py && pods_train
Differs   from atss.res18.shapes: deformable convolutions in c4 and the towers
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import dcnv2, shapes_trial
from cvpods_ext.methods.atss import ATSSConfig

for split in ("train", "val"):
    register_coco_instances(
        f"shapes_{split}", f"shapes/annotations/instances_{split}.json", f"shapes/{split}"
    )

config = compose(
    ATSSConfig,
    shapes_trial("ATSS"),
    dcnv2("res4"),
    {"MODEL.ATSS.ANCHOR_SCALE": 4},
    experiment=__file__,
)
