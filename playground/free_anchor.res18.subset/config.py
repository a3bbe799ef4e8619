"""FreeAnchor, ResNet-18-FPN, overfit on a handful of real images, from scratch

Paper     none; a check that data, assignment, losses and decoding fit together
Expected  AP50 > 90 on the images that it was trained on
Measured  92.8, AP50 100 on the 4 real images that it was trained on
Recorded  2026-11-21, 6ddf4f7
Run       python ../../datasets/make_subset.py <instances.json> <images> --min-size 32
          pods_train
Differs   tested on its training images, one size, no flip, AdamW with a cosine schedule
"""

from cvpods.data import register_coco_instances
from cvpods_ext.configs import compose
from cvpods_ext.configs.fragments import octave_anchors, overfit_trial
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

register_coco_instances("subset_train", "subset/annotations/instances_train.json", "subset/train")

config = compose(
    FreeAnchorConfig,
    overfit_trial("FREE_ANCHOR"),
    octave_anchors([20, 40, 80, 160]),
    experiment=__file__,
)
