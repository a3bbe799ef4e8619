"""Differences between other frameworks and this project, as config keys.

Weights that were trained in a framework rely on its ARITHMETIC: with these keys, the same network
gives the same boxes and scores here. The functions return fragments for experiments.
"""

from __future__ import annotations

from typing import Any

from cvpods.checkpoint.catalog import IMAGENET_RGB, find_published

Fragment = dict[str, Any]

_EXACT_ANCHORS: Fragment = {
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.ANCHOR_GENERATOR.ROUNDED": False,
    "MODEL.ANCHOR_GENERATOR.WHOLE_CORNERS": False,
}
_MMDET: Fragment = {"MODEL.PLUS_ONE": False, **_EXACT_ANCHORS}
# Caffe's mean with more digits than its network needs.
_CAFFE_MEAN = [102.9801, 115.9465, 122.7717]
_MRCNN: Fragment = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": _CAFFE_MEAN,
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.PLUS_ONE": True,
    "MODEL.FPN.BLOCK_IN_FEATURES": "p5",
    "MODEL.FPN.RELU_BEFORE_P7": True,
}
_MRCNN_ANCHORS: Fragment = {
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    "MODEL.ANCHOR_GENERATOR.ROUNDED": True,
    "MODEL.ANCHOR_GENERATOR.WHOLE_CORNERS": False,
}
# Common to all of torchvision's detectors.
_TORCHVISION: Fragment = {
    **IMAGENET_RGB,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.FPN.RELU_BEFORE_P7": True,
}
# P6 is computed from C5, and P7 from P6 without a relu.
_RETINA_TOP: Fragment = {
    "MODEL.FPN.BLOCK_IN_FEATURES": "res5",
    "MODEL.FPN.RELU_BEFORE_P7": False,
}

# {framework: {method: keys}}
ARITHMETIC: dict[str, dict[str, Fragment]] = {
    "mmdet": {
        "RETINANET": {
            **_MMDET,
            **_RETINA_TOP,
            "MODEL.RETINANET.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        },
        "FREE_ANCHOR": {
            **_MMDET,
            **_RETINA_TOP,
            "MODEL.FREE_ANCHOR.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        },
        "FCOS": {
            "MODEL.PLUS_ONE": False,
            "MODEL.FPN.BLOCK_IN_FEATURES": "p5",
            "MODEL.FPN.RELU_BEFORE_P7": True,
            "MODEL.SHIFT_GENERATOR.OFFSET": 0.5,
            "MODEL.FCOS.SCORE_TYPE": "class_first",
        },
        "ATSS": {
            "MODEL.PLUS_ONE": False,
            "MODEL.FPN.BLOCK_IN_FEATURES": "p5",
            "MODEL.FPN.RELU_BEFORE_P7": False,
            "MODEL.ATSS.ANCHOR_OFFSET": 0.0,
            "MODEL.ATSS.ANCHOR_SHIFT": 0.0,
            "MODEL.ATSS.REGRESSION_TYPE": "BOX",
            "MODEL.ATSS.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
            "MODEL.ATSS.SCORE_TYPE": "class_first",
        },
        "AUTO_ASSIGN": {
            "MODEL.FPN.BLOCK_IN_FEATURES": "res5",
            "MODEL.FPN.RELU_BEFORE_P7": True,
            "MODEL.AUTO_ASSIGN.POINT_OFFSET": 0.0,
            "MODEL.AUTO_ASSIGN.SCORE_TYPE": "class_first",
            "MODEL.AUTO_ASSIGN.CAP_AT_LOCATIONS": False,
            "MODEL.AUTO_ASSIGN.CLIP_BEFORE_NMS": True,
        },
    },
    # The code of FreeAnchor's and ATSS' authors.
    "maskrcnn_benchmark": {
        "RETINANET": {**_MRCNN, **_MRCNN_ANCHORS},
        "FREE_ANCHOR": {
            **_MRCNN,
            **_MRCNN_ANCHORS,
            "MODEL.FREE_ANCHOR.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        },
        "ATSS": {
            **_MRCNN,
            "MODEL.ATSS.ANCHOR_OFFSET": 0.5,
            "MODEL.ATSS.ANCHOR_SHIFT": 0.5,
            "MODEL.ATSS.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
            "MODEL.ATSS.SCORE_TYPE": "sqrt",
        },
    },
    "detectron2": {
        "RETINANET": {
            **_MMDET,
            "MODEL.FPN.BLOCK_IN_FEATURES": "res5",
            "MODEL.FPN.RELU_BEFORE_P7": True,
            "MODEL.RETINANET.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        },
        "FCOS": {
            "MODEL.FPN.RELU_BEFORE_P7": True,
            "MODEL.SHIFT_GENERATOR.OFFSET": 0.5,
            "MODEL.FCOS.NORM_REG_TARGETS": True,
            "MODEL.FCOS.CENTERNESS_ON_REG": True,
            "MODEL.FCOS.SCORE_TYPE": "sqrt_all",
        },
    },
    "torchvision": {
        "RETINANET": {
            **_TORCHVISION,
            "MODEL.PLUS_ONE": False,
            "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
            "MODEL.ANCHOR_GENERATOR.ROUNDED": False,
            "MODEL.ANCHOR_GENERATOR.WHOLE_CORNERS": True,
            "MODEL.ANCHOR_GENERATOR.SIZES": [
                [size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))]
                for size in (32, 64, 128, 256, 512)
            ],
            "MODEL.RETINANET.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        },
        "FCOS": {
            **_TORCHVISION,
            "MODEL.SHIFT_GENERATOR.OFFSET": 0.0,
            "MODEL.FCOS.NORM_REG_TARGETS": True,
            "MODEL.FCOS.CENTERNESS_ON_REG": True,
            "MODEL.FCOS.SCORE_TYPE": "sqrt_all",
        },
    },
}

# Losses, tests and solver of mmdetection's configs.
_CLIP_35: Fragment = {
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
}


def _warm_up(method: str, factor: float, iterations: int) -> Fragment:
    """Return the keys of a warm-up."""
    return {
        "SOLVER.LR_SCHEDULER.WARMUP_METHOD": method,
        "SOLVER.LR_SCHEDULER.WARMUP_FACTOR": factor,
        "SOLVER.LR_SCHEDULER.WARMUP_ITERS": iterations,
    }


# One learning rate and decay for all parameters.
_PLAIN_SGD: Fragment = {
    **_warm_up("linear", 0.001, 500),
    "SOLVER.OPTIMIZER.BASE_LR": 0.01,
    "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY_NORM": 1e-4,
    "SOLVER.OPTIMIZER.WEIGHT_DECAY_BIAS": None,
}
_MMDET_RECIPE: dict[str, Fragment] = {
    "RETINANET": {
        **_PLAIN_SGD,
        "MODEL.RETINANET.PRIOR_PROB": 0.01,
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
        "MODEL.RETINANET.LOSS_NORMALIZER": "positives",
        "MODEL.RETINANET.REASSIGN_LOW_QUALITY": True,
    },
    "FREE_ANCHOR": {**_PLAIN_SGD, **_CLIP_35, "MODEL.FREE_ANCHOR.PRIOR_PROB": 0.01},
    "FCOS": {
        **_warm_up("constant", 1 / 3, 500),
        **_CLIP_35,
        "SOLVER.OPTIMIZER.BASE_LR": 0.01,
        "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": 2.0,
        "SOLVER.OPTIMIZER.WEIGHT_DECAY_NORM": 1e-4,
        "SOLVER.OPTIMIZER.WEIGHT_DECAY_BIAS": 0.0,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.5,
        "MODEL.PIXEL_MEAN": _CAFFE_MEAN,
    },
    "ATSS": _PLAIN_SGD,
    "AUTO_ASSIGN": {
        **_warm_up("linear", 0.001, 1000),
        "MODEL.AUTO_ASSIGN.PRIOR_PROB": 0.01,
        "MODEL.PIXEL_MEAN": _CAFFE_MEAN,
    },
}


def pretrained(address: str) -> Fragment:
    """Use published weights of a backbone, and the colours and network that they expect."""
    return {"MODEL.WEIGHTS": address, **find_published(address).expects}


def mmdetection(method: str, weights: str) -> Fragment:
    """Use mmdetection's config of a method ("ATSS"): arithmetic, losses, solver, and a backbone.

    Networks in torchvision's style read RGB, and the affine maps of their batch norms learn.
    Caffe's networks read BGR, and their batch norms are frozen.
    """
    backbone = pretrained(weights)
    norm = "EvalBN" if backbone["INPUT.FORMAT"] == "RGB" else "FrozenBN"
    return {
        **backbone,
        "MODEL.RESNETS.NORM": norm,
        **ARITHMETIC["mmdet"][method],
        **_MMDET_RECIPE[method],
    }


def mrcnn(method: str) -> Fragment:
    """Use the arithmetic of maskrcnn-benchmark for "FREE_ANCHOR", "ATSS" or "RETINANET".

    Weights of its users rely on it: (x2, y2) of a box is the last pixel inside, anchors have other
    centres, and colours are Caffe's.
    """
    return ARITHMETIC["maskrcnn_benchmark"][method]
