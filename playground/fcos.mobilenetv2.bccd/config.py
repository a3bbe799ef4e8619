"""FCOS, MobileNetV2-FPN, blood cells (BCCD: RBC, WBC, Platelets), ImageNet weights.

Paper     none; other detectors reach about 90 AP50 on this test split, as published
Expected  not known for this schedule
Measured  19.4, AP50 50.1 (BCCD test; a third of the schedule at 224 pixels, see docs/comparison.md)
Recorded  2026-11-21, 131de1b
Run       pods_train MODEL.WEIGHTS <mobilenet_v2 features.pth>
          with bccd/{train,val,test} and bccd/annotations under a data root (datasets/README.md)
Differs   3 classes, 384-pixel images, narrow pyramid and towers, AdamW with a cosine schedule
"""

from cvpods.configs import FCOSConfig
from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import bccd_trial

for split in ("train", "val", "test"):
    register_coco_instances(
        f"bccd_{split}", f"bccd/annotations/instances_{split}.json", f"bccd/{split}"
    )

config = compose(FCOSConfig, bccd_trial("FCOS"), experiment=__file__)
