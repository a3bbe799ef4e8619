"""Named differences of which experiments are composed: {dotted key: value}.

Each name varies one axis: data, backbone, schedule or scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cvpods.checkpoint.catalog import IMAGENET_RGB
from cvpods.configs import BaseConfig
from cvpods.configs.config_dict import flatten
from cvpods.modeling.backbone.stages import STAGES
from cvpods.utils.errors import ConfigError
from cvpods_ext.methods.free_anchor.config import FreeAnchorConfig

Fragment = dict[str, Any]


def like(config: type[BaseConfig], *groups: str) -> Fragment:
    """Return the values of another method's class for the keys under `groups` ("SOLVER")."""
    prefixes = tuple(f"{group}." for group in groups)
    return {k: v for k, v in flatten(config()) if k in groups or k.startswith(prefixes)}


# -- data ------------------------------------------------------------------------------------------

COCO_2017: Fragment = {
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
}


def data(train: str, test: str, num_classes: int, method: str) -> Fragment:
    """Name the data sets and their number of classes, for a method ("ATSS")."""
    return {
        "DATASETS.TRAIN": (train,),
        "DATASETS.TEST": (test,),
        f"MODEL.{method}.NUM_CLASSES": num_classes,
    }


# -- backbones -------------------------------------------------------------------------------------

RES18: Fragment = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
RES50: Fragment = {
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "MODEL.RESNETS.DEPTH": 50,
}
RES101: Fragment = {
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    "MODEL.RESNETS.DEPTH": 101,
}


def resnext101(groups: int, width: int, weights: str) -> Fragment:
    """Use ResNeXt-101 `groups` x `width`d, starting from `weights`."""
    return {
        "MODEL.WEIGHTS": weights,
        "MODEL.RESNETS.DEPTH": 101,
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }


_DETECTRON = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained"
_MMLAB = "https://download.openmmlab.com/pretrain/third_party"
RESX101_32X4D = resnext101(32, 4, f"{_MMLAB}/resnext101_32x4d-a5af3160.pth")
RESX101_32X8D = resnext101(32, 8, f"{_DETECTRON}/20171220/X-101-32x8d.pkl")
RESX101_64X4D = resnext101(64, 4, f"{_DETECTRON}/FBResNeXt/X-101-64x4d.pkl")


def dcnv2(*stages: str, method: str = "ATSS") -> Fragment:
    """Use modulated deformable convolutions in `stages` of the backbone and last in both towers.

    Raises:
        ConfigError: a name is not a stage's.
    """
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ConfigError(f"dcnv2()'s stages must be of {STAGES}; got {sorted(unknown)}.")
    return {
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [stage in stages for stage in STAGES],
        "MODEL.RESNETS.DEFORM_MODULATED": True,
        f"MODEL.{method}.USE_DCN_IN_TOWER": True,
    }


# FeatureAlign's label assignment alone (FF and MDQ), without attention and deformable towers.
ASSIGN_ONLY: Fragment = {
    "MODEL.FEATURE_ALIGN.ATTENTION.ENABLED": False,
    "MODEL.FEATURE_ALIGN.USE_DCN_IN_TOWER": False,
}

MOBILENETV2: Fragment = IMAGENET_RGB


def small_p3_p6(method: str) -> Fragment:
    """Use a narrow pyramid P3-P6 without res5, and two convolutions a tower, for small images."""
    return {
        "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4"],
        "MODEL.FPN.IN_FEATURES": ["res3", "res4"],
        "MODEL.FPN.BLOCK_IN_FEATURES": "p4",
        "MODEL.FPN.OUT_CHANNELS": 64,
        f"MODEL.{method}.IN_FEATURES": ["p3", "p4", "p5", "p6"],
        f"MODEL.{method}.NUM_CONVS": 2,
    }


# RetinaNet as FreeAnchor's baseline: the same solver, pyramid and anchors.
RETINANET_LIKE_FREE_ANCHOR: Fragment = like(
    FreeAnchorConfig, "SOLVER", "MODEL.PIXEL_MEAN", "MODEL.FPN", "MODEL.ANCHOR_GENERATOR"
)


def octave_anchors(sizes: Sequence[float]) -> Fragment:
    """Give each level anchors of its size x 2^0, 2^(1/3), 2^(2/3)."""
    scales = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    return {"MODEL.ANCHOR_GENERATOR.SIZES": [[size * scale for scale in scales] for size in sizes]}


# No pretrained weights: train every layer, with batch norms that learn.
FROM_SCRATCH: Fragment = {
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
}

# -- schedules: iterations of 16 images ------------------------------------------------------------


def schedule(iterations: int, steps: Sequence[int]) -> Fragment:
    """Train for `iterations`; multiply the learning rate by 0.1 after each of `steps`."""
    return {
        "SOLVER.LR_SCHEDULER.MAX_ITER": iterations,
        "SOLVER.LR_SCHEDULER.STEPS": tuple(steps),
    }


SCHEDULE_1X = schedule(90_000, (60_000, 80_000))
SCHEDULE_1_5X = schedule(135_000, (90_000, 120_000))
SCHEDULE_2X = schedule(180_000, (120_000, 160_000))


def adamw_cosine(
    iterations: int, *, lr: float, batch: int, warmup: int = 50, weight_decay: float = 0.05
) -> Fragment:
    """Train a small trial: AdamW, linear warm-up, cosine to 0; one process handles the batch."""
    return {
        "SOLVER.OPTIMIZER.NAME": "AdamW",
        "SOLVER.OPTIMIZER.BASE_LR": lr,
        "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": 1.0,
        "SOLVER.OPTIMIZER.WEIGHT_DECAY": weight_decay,
        "SOLVER.LR_SCHEDULER.NAME": "WarmupCosineLR",
        "SOLVER.LR_SCHEDULER.MAX_ITER": iterations,
        "SOLVER.LR_SCHEDULER.WARMUP_ITERS": warmup,
        "SOLVER.LR_SCHEDULER.WARMUP_METHOD": "linear",
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.IMS_PER_DEVICE": batch,
        "SOLVER.CHECKPOINT_PERIOD": 100,
        "SEED": 0,
    }


# -- scales ----------------------------------------------------------------------------------------


def train_scales(short_edges: Sequence[int], max_size: int, style: str = "choice") -> Fragment:
    """Train with a random short edge, a capped long edge, and flips.

    Args:
        style: "choice" draws one of `short_edges`, "range" a whole number between the two.
    """
    resize = {
        "short_edge_length": tuple(short_edges),
        "max_size": max_size,
        "sample_style": style,
    }
    return {
        "INPUT.AUG.TRAIN_PIPELINES": [("ResizeShortestEdge", resize), ("RandomFlip", {})],
    }


def test_scale(short_edge: int, max_size: int) -> Fragment:
    """Test with one short edge and a capped long edge."""
    resize = {"short_edge_length": short_edge, "max_size": max_size, "sample_style": "choice"}
    return {"INPUT.AUG.TEST_PIPELINES": [("ResizeShortestEdge", resize)]}


SCALE_800: Fragment = {**train_scales([800], 1333), **test_scale(800, 1333)}
# FreeAnchor's "ms" and "ms2": steps of 32.
MS_640_800: Fragment = {**train_scales(range(640, 801, 32), 1333), **test_scale(800, 1333)}
MS_480_960: Fragment = {**train_scales(range(480, 961, 32), 1333), **test_scale(800, 1333)}
# One of two scales, for FeatureAlign's and AutoAssign's 2x.
SCALE_640_OR_800: Fragment = {**train_scales([640, 800], 1333), **test_scale(800, 1333)}
# FeatureAlign's "ms1"; its "ms2" is MS_480_960.
MS_480_800: Fragment = {**train_scales(range(480, 801, 32), 1333), **test_scale(800, 1333)}
# A random whole number in [640, 800].
SCALE_640_800: Fragment = {**train_scales([640, 800], 1333, "range"), **test_scale(800, 1333)}

# -- multi-scale tests, with TEST.AUG.ENABLED True -------------------------------------------------


def test_scales(*pairs: tuple[float, float], **aug: Any) -> Fragment:
    """Test in passes (short edge, cap of the long edge); `aug` are further keys of TEST.AUG."""
    keys = {"MIN_SIZES": (), "EXTRA_SIZES": pairs, **aug}
    return {f"TEST.AUG.{key}": value for key, value in keys.items()}


# FreeAnchor's: six scales of the loaded image, one NMS.
FREE_ANCHOR_TTA = test_scales(
    (480, 800),
    (640, 1067),
    (800, 1333),
    (960, 1600),
    (1120, 1867),
    (1280, 2133),
    FLIP=False,
    MERGE="nms",
)

# ATSS's (47.7 -> 50.7 AP): 13 scales of the original image, each also mirrored, each with the
# range of sizes that it keeps; soft voting.
_ATSS_PASSES = {
    (800, 1333): (0.0, 1e5),
    (400, 1333): (96.0, 1e4),
    (500, 1333): (96.0, 1e4),
    (600, 1333): (64.0, 1e4),
    (640, 1333): (64.0, 1e4),
    (700, 1333): (64.0, 1e4),
    (900, 3000): (0.0, 1e4),
    (1000, 3000): (0.0, 1e4),
    (1100, 3000): (0.0, 256.0),
    (1200, 3000): (0.0, 256.0),
    (1300, 3000): (0.0, 192.0),
    (1400, 3000): (0.0, 192.0),
    (1800, 3000): (0.0, 96.0),
}
ATSS_TTA = test_scales(
    *_ATSS_PASSES,
    FLIP=True,
    SCALE_FILTER=True,
    SCALE_RANGES=tuple(_ATSS_PASSES.values()),
    FROM_ORIGINAL=True,
    MERGE="soft-vote",
    VOTE_THRESH=0.66,
    DETECTIONS_PER_IMAGE=1000,
)

# -- trials ----------------------------------------------------------------------------------------


def shapes_trial(method: str) -> Fragment:
    """Return what trials on the shapes share, so that methods compare: data, network, budget."""
    return {
        **data("shapes_train", "shapes_val", num_classes=6, method=method),
        **RES18,
        **FROM_SCRATCH,
        **small_p3_p6(method),
        **adamw_cosine(500, lr=1.5e-3, batch=8),
        **train_scales([160], 256),
        **test_scale(160, 256),
    }


def bccd_trial(method: str) -> Fragment:
    """Return what trials on blood cells (BCCD) share: data, a narrow MobileNetV2, budget."""
    return {
        **data("bccd_train", "bccd_test", num_classes=3, method=method),
        **MOBILENETV2,
        "MODEL.FPN.OUT_CHANNELS": 64,
        f"MODEL.{method}.NUM_CONVS": 2,
        "TRAINER.CHANNELS_LAST": True,
        **adamw_cosine(300, lr=1e-3, batch=8),
        **train_scales([320, 352, 384, 416, 448], 640),
        **test_scale(384, 640),
    }


def overfit_trial(method: str) -> Fragment:
    """Overfit the images of the subset: the test uses the training images, at one size."""
    resize = test_scale(224, 336)
    return {
        **data("subset_train", "subset_train", num_classes=80, method=method),
        **RES18,
        **FROM_SCRATCH,
        "MODEL.RESNETS.NORM": "GN",
        **small_p3_p6(method),
        **adamw_cosine(250, lr=1e-3, batch=4, warmup=20, weight_decay=0.0),
        **resize,
        "INPUT.AUG.TRAIN_PIPELINES": resize["INPUT.AUG.TEST_PIPELINES"],
    }
