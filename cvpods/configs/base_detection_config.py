"""BaseDetectionConfig: adds the backbone, the pyramid and the anchors."""

from __future__ import annotations

from cvpods.configs.base_config import BaseConfig

_config_dict = {
    "MODEL": {
        # Accepted for old experiments.
        "LOAD_PROPOSALS": False,
        "MASK_ON": False,
        "KEYPOINT_ON": False,
        # Freeze the stem (>= 1) and stages res2 .. resN (>= N) of the backbone; 0 freezes nothing.
        "BACKBONE": {"FREEZE_AT": 2},
        "RESNETS": {
            # Add a classifier with so many classes; None for a detector's backbone.
            "NUM_CLASSES": None,
            # 18, 34, 50, 101 or 152. Every experiment sets it.
            "DEPTH": None,
            "OUT_FEATURES": ["res4"],
            # ResNeXt: 32 x 8d is NUM_GROUPS 32, WIDTH_PER_GROUP 8.
            "NUM_GROUPS": 1,
            "WIDTH_PER_GROUP": 64,
            # "FrozenBN", "EvalBN" (fixed statistics, learned affine), "BN", "SyncBN" or "GN".
            "NORM": "FrozenBN",
            "ACTIVATION": {"NAME": "ReLU", "INPLACE": True},
            # Start the last norm of every block at 0, so that a block starts as the identity.
            "ZERO_INIT_RESIDUAL": False,
            # The stride of a bottleneck sits on its first 1x1 (MSRA's weights), or on its 3x3.
            "STRIDE_IN_1X1": True,
            # 2 keeps res5 at stride 16.
            "RES5_DILATION": 1,
            # 64 for ResNet-18 and -34.
            "RES2_OUT_CHANNELS": 256,
            "STEM_OUT_CHANNELS": 64,
            # Three 3x3 convolutions instead of one 7x7.
            "DEEP_STEM": False,
            # Deformable 3x3 convolutions (conv2 of a block) in res2, res3, res4, res5.
            "DEFORM_ON_PER_STAGE": [False, False, False, False],
            # DCNv2: samples have factors too.
            "DEFORM_MODULATED": False,
            # Groups of channels with offsets of their own.
            "DEFORM_NUM_GROUPS": 1,
        },
        # A network of the timm package instead (build_timm_fpn_p3_p7 in net.py); OUT_FEATURES and
        # NORM ("FrozenBN" or "BN") above hold for it, too. ARGUMENTS: pairs (name, value), further
        # arguments of timm.create_model.
        "TIMM": {"NAME": "", "ARGUMENTS": ()},
        "FPN": {
            "IN_FEATURES": [],
            "OUT_CHANNELS": 256,
            "NORM": "",
            # How a level and the one above it combine: "sum" or "avg".
            "FUSE_TYPE": "sum",
            # What P6 is computed from: "p5" (FCOS family) or "res5" (RetinaNet).
            "BLOCK_IN_FEATURES": "p5",
            # P7 = conv(relu(P6)); mmdetection's RetinaNet goes without the relu.
            "RELU_BEFORE_P7": True,
        },
        "ANCHOR_GENERATOR": {
            # Per level, or one list for all levels: sides in pixels.
            "SIZES": [[32, 64, 128, 256, 512]],
            # Height / width; one list for all levels.
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
            "ANGLES": [[-90, 0, 90]],
            # Centre of the first anchor, in strides: 0.0 at the corner, 0.5 mid-cell.
            "OFFSET": 0.0,
            # Round the sides of a stride-sized window of each ratio first, as the first Faster
            # R-CNN and maskrcnn-benchmark do.
            "ROUNDED": False,
            # Round the corners of the anchors around a centre to whole pixels, as torchvision does.
            "WHOLE_CORNERS": False,
        },
        # Scale and clip boxes by maskrcnn-benchmark's arithmetic, where (x2, y2) is the last pixel
        # inside a box: cvpods/modeling/postprocessing.py. RetinaNet, FreeAnchor and ATSS have it.
        "PLUS_ONE": False,
        # "normal", "softnms-linear", "softnms-gaussian"; None is for models that have no NMS.
        "NMS_TYPE": "normal",
    },
}


class BaseDetectionConfig(BaseConfig):
    """Defaults of every detector."""

    def __init__(self, d: dict | None = None, **kwargs: object) -> None:
        super().__init__(d, **kwargs)
        self._register_configuration(_config_dict)


config = BaseDetectionConfig()
