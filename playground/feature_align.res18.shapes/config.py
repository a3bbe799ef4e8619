"""FeatureAlign, ResNet-18-FPN, the embedded shapes data set, from scratch.

Paper     none; a small network on small synthetic images, to try things out on a CPU
Expected  AP about 48 on the held-out images, assignment only 51; about 15 minutes on 2 CPU cores
Measured  49.5, 48.7, 46.4; assignment only 53.0, 50.5, 51.1 (shapes, 150 held-out images; seeds
          0, 1, 2)
Recorded  2026-11-21, 131de1b
Run       python ../../datasets/make_shapes.py && pods_train
          pods_train MODEL.FEATURE_ALIGN.ATTENTION.ENABLED False
              MODEL.FEATURE_ALIGN.USE_DCN_IN_TOWER False     # assignment only (on one line)
Parts     FF, MDQ and G-RFA (its attention is as wide as res4, 256)
Differs   6 classes, 160-pixel images, a narrow pyramid P3-P6 on res3 and res4, AdamW with a
          cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import shapes_trial
from cvpods_ext.methods.feature_align import FeatureAlignConfig

for split in ("train", "val"):
    register_coco_instances(
        f"shapes_{split}", f"shapes/annotations/instances_{split}.json", f"shapes/{split}"
    )

config = compose(FeatureAlignConfig, shapes_trial("FEATURE_ALIGN"), experiment=__file__)
