"""ATSS, MobileNetV2-FPN, blood cells (BCCD: RBC, WBC, Platelets), ImageNet weights.

Paper     none; other detectors reach about 90 AP50 on this test split, as published
Expected  AP 58, AP50 90 on the test split
Measured  58.2, AP50 89.9 (BCCD test)
Recorded  2026-11-21, ace9973
Run       pods_train MODEL.WEIGHTS <mobilenet_v2 features.pth>
          with bccd/{train,val,test} and bccd/annotations under a data root (datasets/README.md)
Differs   3 classes, 384-pixel images, narrow pyramid and towers, AdamW with a cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import bccd_trial
from cvpods_ext.methods.atss import ATSSConfig

for split in ("train", "val", "test"):
    register_coco_instances(
        f"bccd_{split}", f"bccd/annotations/instances_{split}.json", f"bccd/{split}"
    )

config = compose(ATSSConfig, bccd_trial("ATSS"), experiment=__file__)
