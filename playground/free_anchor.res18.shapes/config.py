"""FreeAnchor, ResNet-18-FPN, the embedded shapes data set, from scratch.

Paper     none; a small network on small synthetic images, to try things out on a CPU
Expected  AP 40 to 53 by seed on the held-out images, in about 10 minutes on 2 CPU cores
Measured  39.5, 52.6, 50.6 (shapes, 150 held-out images; seeds 0, 1, 2)
Recorded  2026-11-21, 131de1b
Run       python ../../datasets/make_shapes.py && pods_train
Differs   6 classes, 160-pixel images, a narrow pyramid P3-P6 on res3 and res4, group norms in the
          towers, AdamW with a cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import octave_anchors, shapes_trial
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

for split in ("train", "val"):
    register_coco_instances(
        f"shapes_{split}", f"shapes/annotations/instances_{split}.json", f"shapes/{split}"
    )

config = compose(
    FreeAnchorConfig,
    shapes_trial("FREE_ANCHOR"),
    octave_anchors([20, 40, 80, 160]),
    {"MODEL.FREE_ANCHOR.NORM": "GN"},
    experiment=__file__,
)
