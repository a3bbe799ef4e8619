"""RetinaNet, ResNet-18-FPN, the embedded shapes data set, from scratch.

Paper     none; a small network on small synthetic images, to try things out on a CPU
Expected  AP >= 50 on the held-out images, in under 10 minutes on 2 CPU cores
Run       python ../../datasets/make_shapes.py && pods_train
Differs   6 classes, 160-pixel images, a narrow pyramid P3-P6 on res3 and res4, AdamW with a
          cosine schedule
"""

from cvpods.configs import RetinaNetConfig
from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import (
    FROM_SCRATCH,
    RES18,
    adamw_cosine,
    data,
    octave_anchors,
    retinanet_like_free_anchor,
    small_p3_p6,
    test_scale,
    train_scales,
)

for split in ("train", "val"):
    register_coco_instances(
        f"shapes_{split}", f"shapes/annotations/instances_{split}.json", f"shapes/{split}"
    )

config = compose(
    RetinaNetConfig,
    retinanet_like_free_anchor(),
    data("shapes_train", "shapes_val", num_classes=6, method="RETINANET"),
    RES18,
    FROM_SCRATCH,
    small_p3_p6("RETINANET"),
    octave_anchors([20, 40, 80, 160]),
    {"MODEL.RETINANET.NORM": "GN"},
    adamw_cosine(500, lr=1.5e-3, batch=8),
    train_scales([160], 256),
    test_scale(160, 256),
    experiment=__file__,
)
