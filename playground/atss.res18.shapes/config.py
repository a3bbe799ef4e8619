"""ATSS, ResNet-18-FPN, the embedded shapes data set, from scratch: the quick start.

Paper     none; a small network on small synthetic images, to try things out on a CPU
Expected  AP >= 50 on the held-out images, in under 10 minutes on 2 CPU cores
Measured  53.9 (shapes, 150 held-out images)
Recorded  2026-11-21, ace9973
Run       python ../../datasets/make_shapes.py && pods_train
Differs   6 classes, 160-pixel images, a narrow pyramid P3-P6 on res3 and res4, AdamW with a
          cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import shapes_trial
from cvpods_ext.methods.atss import ATSSConfig

for split in ("train", "val"):
    register_coco_instances(
        f"shapes_{split}", f"shapes/annotations/instances_{split}.json", f"shapes/{split}"
    )

config = compose(
    ATSSConfig,
    shapes_trial("ATSS"),
    {"MODEL.ATSS.ANCHOR_SCALE": 4},
    experiment=__file__,
)
