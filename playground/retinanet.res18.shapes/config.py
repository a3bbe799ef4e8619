"""RetinaNet, ResNet-18-FPN, the embedded shapes data set, from scratch: FreeAnchor's baseline.

Paper     none; a small network on small synthetic images, to try things out on a CPU
Expected  AP below free_anchor.res18.shapes on the held-out images; about 10 minutes on 2 CPU cores
Measured  37.0, 47.2, 44.0 (shapes, 150 held-out images; seeds 0, 1, 2)
Recorded  2026-11-21, 8e225e1
Run       python ../../datasets/make_shapes.py && pods_train
Differs   6 classes, 160-pixel images, a narrow pyramid P3-P6 on res3 and res4, group norms in the
          towers, AdamW with a cosine schedule
"""

from cvpods.configs import RetinaNetConfig
from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import RETINANET_LIKE_FREE_ANCHOR, octave_anchors, shapes_trial

for split in ("train", "val"):
    register_coco_instances(
        f"shapes_{split}", f"shapes/annotations/instances_{split}.json", f"shapes/{split}"
    )

config = compose(
    RetinaNetConfig,
    RETINANET_LIKE_FREE_ANCHOR,
    shapes_trial("RETINANET"),
    octave_anchors([20, 40, 80, 160]),
    {"MODEL.RETINANET.NORM": "GN"},
    experiment=__file__,
)
