"""Keys of every detector: backbone, pyramid and anchors, with their defaults."""

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
            # Classes of a classifier on top; None for a detector's backbone.
            "NUM_CLASSES": None,
            # 18, 34, 50, 101 or 152. Every experiment with a ResNet sets it.
            "DEPTH": None,
            "OUT_FEATURES": ["res4"],
            # For ResNeXt: 32 x 8d is NUM_GROUPS 32, WIDTH_PER_GROUP 8.
            "NUM_GROUPS": 1,
            "WIDTH_PER_GROUP": 64,
            # "FrozenBN", "EvalBN" (fixed statistics, learned affine), "BN", "SyncBN" or "GN".
            "NORM": "FrozenBN",
            "ACTIVATION": {"NAME": "ReLU", "INPLACE": True},
            # Initialise the last norm of every block with 0: a block starts as the identity.
            "ZERO_INIT_RESIDUAL": False,
            # True: the stride of a bottleneck is in its first 1x1 convolution (MSRA's weights).
            # False: it is in the 3x3 convolution.
            "STRIDE_IN_1X1": True,
            # A dilation of 2 keeps res5 at stride 16.
            "RES5_DILATION": 1,
            # Channels of res2; 64 for ResNet-18 and -34.
            "RES2_OUT_CHANNELS": 256,
            "STEM_OUT_CHANNELS": 64,
            # Three 3x3 convolutions instead of one 7x7.
            "DEEP_STEM": False,
            # Deformable 3x3 convolutions (conv2 of a block) in res2, res3, res4, res5.
            "DEFORM_ON_PER_STAGE": [False, False, False, False],
            # Deformable convolutions are DCNv2: each sample also has a factor.
            "DEFORM_MODULATED": False,
            # Groups of channels, each with its own offsets.
            "DEFORM_NUM_GROUPS": 1,
        },
        # A network of the timm package instead (build_timm_fpn_p3_p7 in net.py). RESNETS'
        # OUT_FEATURES and NORM ("FrozenBN" or "BN") apply to it too. ARGUMENTS are pairs
        # (name, value), further arguments of timm.create_model.
        "TIMM": {"NAME": "", "ARGUMENTS": ()},
        "FPN": {
            "IN_FEATURES": [],
            "OUT_CHANNELS": 256,
            "NORM": "",
            # Operation that combines a level with the one above it: "sum" or "avg".
            "FUSE_TYPE": "sum",
            # The map that P6 is computed from: "p5" (FCOS family) or "res5" (RetinaNet).
            "BLOCK_IN_FEATURES": "p5",
            # True: P7 = conv(relu(P6)). False: P7 = conv(P6), as in mmdetection's RetinaNet.
            "RELU_BEFORE_P7": True,
        },
        "ANCHOR_GENERATOR": {
            # Sides in pixels: a list for each level, or one list for all levels.
            "SIZES": [[32, 64, 128, 256, 512]],
            # Height / width; one list for all levels.
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
            "ANGLES": [[-90, 0, 90]],
            # Centre of the first anchor, in strides: 0.0 is the corner, 0.5 the middle of the cell.
            "OFFSET": 0.0,
            # First round the sides of a stride-sized window of each ratio, as the first Faster
            # R-CNN and maskrcnn-benchmark do.
            "ROUNDED": False,
            # Round the corners of the anchors around a centre to whole pixels, as torchvision does.
            "WHOLE_CORNERS": False,
        },
        # Scale and clip boxes by maskrcnn-benchmark's arithmetic, in which (x2, y2) is the last
        # pixel inside a box (see cvpods/modeling/postprocessing.py). RetinaNet, FreeAnchor and ATSS
        # support it.
        "PLUS_ONE": False,
        # "normal", "softnms-linear" or "softnms-gaussian"; None is for models without NMS.
        "NMS_TYPE": "normal",
    },
}


class BaseDetectionConfig(BaseConfig):
    """Defaults of every detector."""

    def __init__(self, d: dict | None = None, **kwargs: object) -> None:
        super().__init__(d, **kwargs)
        self._register_configuration(_config_dict)


config = BaseDetectionConfig()
