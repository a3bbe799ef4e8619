"""The config classes: defaults, the class pattern of old experiments, old and misspelt keys."""

import copy
import importlib
import pickle
import warnings

import pytest

from cvpods.configs import BaseConfig, BaseDetectionConfig, FCOSConfig, RetinaNetConfig
from cvpods.configs.config_dict import flatten

CLASSES = [BaseConfig, BaseDetectionConfig, FCOSConfig, RetinaNetConfig]
MODULES = ["base_config", "base_detection_config", "fcos_config", "retinanet_config"]

DEFAULTS = {
    BaseConfig: {
        "MODEL.DEVICE": "cuda",
        "MODEL.WEIGHTS": "",
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "INPUT.FORMAT": "BGR",
        "INPUT.MASK_FORMAT": "polygon",
        "DATASETS.CUSTOM_TYPE": ["ConcatDataset", {}],
        "DATASETS.TRAIN": [],
        "DATASETS.TEST": [],
        "DATALOADER.NUM_WORKERS": 2,
        "DATALOADER.SAMPLER_TRAIN": "DistributedGroupSampler",
        "DATALOADER.REPEAT_THRESHOLD": 0.0,
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
        "TRAINER.NAME": "DefaultRunner",
        "TRAINER.WINDOW_SIZE": 20,
        "SOLVER.LR_SCHEDULER.NAME": "WarmupMultiStepLR",
        "SOLVER.LR_SCHEDULER.MAX_ITER": 40000,
        "SOLVER.LR_SCHEDULER.MAX_EPOCH": None,
        "SOLVER.LR_SCHEDULER.STEPS": [30000],
        "SOLVER.LR_SCHEDULER.WARMUP_FACTOR": 0.001,
        "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 1000,
        "SOLVER.LR_SCHEDULER.WARMUP_METHOD": "linear",
        "SOLVER.LR_SCHEDULER.GAMMA": 0.1,
        "SOLVER.OPTIMIZER.NAME": "D2SGD",
        "SOLVER.OPTIMIZER.BASE_LR": 0.001,
        "SOLVER.OPTIMIZER.BIAS_LR_FACTOR": 1.0,
        "SOLVER.OPTIMIZER.WEIGHT_DECAY": 1e-4,
        "SOLVER.OPTIMIZER.WEIGHT_DECAY_NORM": 0.0,
        "SOLVER.OPTIMIZER.MOMENTUM": 0.9,
        "SOLVER.CLIP_GRADIENTS.ENABLED": False,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
        "SOLVER.CHECKPOINT_PERIOD": 5000,
        "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.IMS_PER_DEVICE": 2,
        "SOLVER.BATCH_SUBDIVISIONS": 1,
        "TEST.EXPECTED_RESULTS": [],
        "TEST.EVAL_PERIOD": 0,
        "TEST.DETECTIONS_PER_IMAGE": 100,
        "TEST.AUG.ENABLED": False,
        "TEST.AUG.MIN_SIZES": [400, 500, 600, 700, 800, 900, 1000, 1100, 1200],
        "TEST.AUG.MAX_SIZE": 4000,
        "TEST.AUG.FLIP": True,
        "TEST.AUG.EXTRA_SIZES": [],
        "TEST.AUG.SCALE_FILTER": False,
        "TEST.AUG.SCALE_RANGES": [],
        "TEST.PRECISE_BN.ENABLED": False,
        "TEST.PRECISE_BN.NUM_ITER": 200,
        "TEST.ON_FILES": False,
        "OUTPUT_DIR": "./output",
        "SEED": -1,
        "CUDNN_BENCHMARK": False,
        "VIS_PERIOD": 0,
        "GLOBAL.LOG_INTERVAL": 20,
        "GLOBAL.DUMP_TRAIN": True,
        "GLOBAL.DUMP_TEST": False,
    },
    BaseDetectionConfig: {
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "MODEL.RESNETS.NUM_CLASSES": None,
        "MODEL.RESNETS.DEPTH": None,
        "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.RESNETS.NUM_GROUPS": 1,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RESNETS.ACTIVATION.NAME": "ReLU",
        "MODEL.RESNETS.ACTIVATION.INPLACE": True,
        "MODEL.RESNETS.ZERO_INIT_RESIDUAL": False,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.RESNETS.RES5_DILATION": 1,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
        "MODEL.RESNETS.DEEP_STEM": False,
        "MODEL.FPN.IN_FEATURES": [],
        "MODEL.FPN.OUT_CHANNELS": 256,
        "MODEL.FPN.NORM": "",
        "MODEL.FPN.FUSE_TYPE": "sum",
        "MODEL.FPN.BLOCK_IN_FEATURES": "p5",
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
        "MODEL.NMS_TYPE": "normal",
        "MODEL.MASK_ON": False,
        "MODEL.KEYPOINT_ON": False,
        "MODEL.LOAD_PROPOSALS": False,
    },
    FCOSConfig: {
        "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.BLOCK_IN_FEATURES": "p5",
        "MODEL.SHIFT_GENERATOR.NUM_SHIFTS": 1,
        "MODEL.SHIFT_GENERATOR.OFFSET": 0.0,
        "MODEL.FCOS.NUM_CLASSES": 80,
        "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
        "MODEL.FCOS.NUM_CONVS": 4,
        "MODEL.FCOS.FPN_STRIDES": [8, 16, 32, 64, 128],
        "MODEL.FCOS.PRIOR_PROB": 0.01,
        "MODEL.FCOS.CENTERNESS_ON_REG": False,
        "MODEL.FCOS.NORM_REG_TARGETS": False,
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.05,
        "MODEL.FCOS.TOPK_CANDIDATES_TEST": 1000,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.6,
        "MODEL.FCOS.BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0],
        "MODEL.FCOS.FOCAL_LOSS_GAMMA": 2.0,
        "MODEL.FCOS.FOCAL_LOSS_ALPHA": 0.25,
        "MODEL.FCOS.IOU_LOSS_TYPE": "iou",
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0,
        "MODEL.FCOS.OBJECT_SIZES_OF_INTEREST": [
            [-1, 64],
            [64, 128],
            [128, 256],
            [256, 512],
            [512, float("inf")],
        ],
        "MODEL.FCOS.NORM_SYNC": True,
    },
    RetinaNetConfig: {
        "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.BLOCK_IN_FEATURES": "res5",
        "MODEL.RETINANET.NUM_CLASSES": 80,
        "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
        "MODEL.RETINANET.NUM_CONVS": 4,
        "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
        "MODEL.RETINANET.IOU_LABELS": [0, -1, 1],
        "MODEL.RETINANET.PRIOR_PROB": 0.01,
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.05,
        "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 1000,
        "MODEL.RETINANET.NMS_THRESH_TEST": 0.5,
        "MODEL.RETINANET.BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0],
        "MODEL.RETINANET.FOCAL_LOSS_GAMMA": 2.0,
        "MODEL.RETINANET.FOCAL_LOSS_ALPHA": 0.25,
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.1,
    },
}


def module_of(name):
    return importlib.import_module(f"cvpods.configs.{name}")


class WithAttributes(FCOSConfig):
    """Class attributes and methods of a user's class."""

    EXTRA = 1
    PATHS = {"A": "x"}

    def helper(self):
        return 5


def old_experiment(_parent=FCOSConfig, **config):
    """An experiment's config.py as written for the old cvpods."""

    class CustomConfig(_parent):
        def __init__(self, d=None, **kwargs):
            super().__init__(d, **kwargs)
            self._register_configuration(config)

    return CustomConfig()


# -- defaults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults(cls):
    actual = dict(flatten(cls()))
    assert DEFAULTS[cls] == {key: actual.get(key, "missing") for key in DEFAULTS[cls]}


def test_default_pipelines():
    train = FCOSConfig().INPUT.AUG.TRAIN_PIPELINES
    assert [step[0] for step in train] == ["ResizeShortestEdge", "RandomFlip"]
    resize = dict(train[0][1])
    assert list(resize.pop("short_edge_length")) == [800]
    assert resize == {"max_size": 1333, "sample_style": "choice"} and train[1][1] == {}
    ((name, resize),) = FCOSConfig().INPUT.AUG.TEST_PIPELINES
    assert (name, resize["short_edge_length"], resize["max_size"]) == (
        "ResizeShortestEdge",
        800,
        1333,
    )


def test_retinanet_anchor_sizes():
    """Three octave scales: 32, 32 * 2^(1/3) = 40.317, 32 * 2^(2/3) = 50.797; the rest doubled."""
    sizes = RetinaNetConfig().MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes[0] == pytest.approx([32, 40.3175, 50.7968], abs=1e-3)
    for finer, coarser in zip(sizes[:-1], sizes[1:], strict=True):
        assert coarser == pytest.approx([2 * size for size in finer])


# -- the class pattern ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cls"), list(zip(MODULES, CLASSES, strict=True)))
def test_module_holds_an_instance(name, cls):
    config = module_of(name).config
    assert type(config) is cls and config == cls()


@pytest.mark.parametrize("cls", CLASSES)
def test_own_classes_construct_without_a_warning(cls):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls()
        cls({"EXTRA": 1}, OTHER=2)


def test_defaults_win_over_constructor_values():
    config = FCOSConfig(
        {"OUTPUT_DIR": "X", "NEW": 1, "MODEL": {"FCOS": {"NUM_CLASSES": 3, "MORE": 4}}}, KEYWORD=5
    )
    assert config.OUTPUT_DIR == "./output" and config.MODEL.FCOS.NUM_CLASSES == 80
    assert config.NEW == 1 and config.MODEL.FCOS.MORE == 4 and config.KEYWORD == 5


def test_old_experiment_merges_over_its_parent():
    config = old_experiment(
        MODEL=dict(RESNETS=dict(DEPTH=50), FCOS=dict(NORM_REG_TARGETS=True)), OUTPUT_DIR="here"
    )
    assert config.MODEL.RESNETS.DEPTH == 50 and config.OUTPUT_DIR == "here"
    assert config.MODEL.FCOS.NORM_REG_TARGETS is True and config.MODEL.FCOS.NUM_CLASSES == 80


def test_class_attributes_become_entries():
    config = WithAttributes()
    assert config["EXTRA"] == config.EXTRA == 1
    assert config["PATHS"]["A"] == "x"
    assert config["helper"](config) == config.helper() == 5
    assert "EXTRA" not in FCOSConfig()
    assert not [key for key in config if key.startswith("_")]


def test_class_attribute_and_entry_stay_one_value():
    config = WithAttributes()
    config.EXTRA = 2
    assert config["EXTRA"] == config.EXTRA == 2
    config.merge_from_list(["EXTRA", "3"])
    assert config["EXTRA"] == config.EXTRA == 3
    assert config["PATHS"] is config.PATHS
    assert WithAttributes().EXTRA == 1


@pytest.mark.parametrize("cls", [*CLASSES, WithAttributes])
def test_pickle_and_deepcopy(cls):
    config = cls()
    config.MODEL.WEIGHTS = "a.pth"
    config.build_backbone = module_of
    for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert type(other) is cls and other == config and other.MODEL.WEIGHTS == "a.pth"
        assert other.build_backbone is module_of


# -- nothing is shared ---------------------------------------------------------------------------


def spoil(value):
    """Change every list and dict below `value` in place."""
    for item in list(value.values()) if isinstance(value, dict) else list(value):
        if isinstance(item, (dict, list, tuple)):
            spoil(item)
    if isinstance(value, dict):
        value["SPOILT"] = True
    elif isinstance(value, list):
        value.append("spoilt")


@pytest.mark.parametrize(("name", "cls"), list(zip(MODULES, CLASSES, strict=True)))
def test_a_spoilt_config_leaves_all_others_alone(name, cls):
    module, other = module_of(name), cls()
    before = copy.deepcopy((module._config_dict, module.config, dict(cls())))
    spoil(cls())
    assert (module._config_dict, module.config, dict(cls())) == before
    assert other == before[1]


def test_spoil_reaches_pipelines():
    """The test above would be worthless if `spoil` did not reach the nested keywords."""
    config = FCOSConfig()
    spoil(config)
    assert config.INPUT.AUG.TRAIN_PIPELINES[0][1]["SPOILT"]
    assert config.MODEL.FCOS.OBJECT_SIZES_OF_INTEREST[0][-1] == "spoilt"


def test_registered_dict_is_not_shared():
    pipeline = [("RandomFlip", {"prob": 0.5})]
    config = old_experiment(INPUT=dict(AUG=dict(TRAIN_PIPELINES=pipeline)))
    config.INPUT.AUG.TRAIN_PIPELINES[0][1]["prob"] = 0.9
    assert pipeline == [("RandomFlip", {"prob": 0.5})]


# -- old keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "value", "mode", "new"),
    [
        ("MIN_SIZE_TRAIN", (640, 800), "TRAIN", "short_edge_length"),
        ("MIN_SIZE_TRAIN_SAMPLING", "range", "TRAIN", "sample_style"),
        ("MAX_SIZE_TRAIN", 1000, "TRAIN", "max_size"),
        ("MIN_SIZE_TEST", 600, "TEST", "short_edge_length"),
        ("MAX_SIZE_TEST", 900, "TEST", "max_size"),
    ],
)
def test_old_input_keys_move_into_the_pipeline(old, value, mode, new):
    with pytest.warns(DeprecationWarning, match=rf"INPUT\.\S*{old}\b") as caught:
        config = old_experiment(INPUT={old: value})
    assert len(caught) == 1
    name, resize = config.INPUT.AUG[f"{mode}_PIPELINES"][0]
    assert name == "ResizeShortestEdge" and resize[new] == value
    assert old not in config.INPUT
    other_mode = {"TRAIN": "TEST", "TEST": "TRAIN"}[mode]
    assert (
        config.INPUT.AUG[f"{other_mode}_PIPELINES"]
        == (FCOSConfig().INPUT.AUG[f"{other_mode}_PIPELINES"])
    )


def test_old_input_keys_edit_the_experiments_own_pipeline():
    pipeline = [("RandomFlip", {}), ("ResizeShortestEdge", {"short_edge_length": 800})]
    with pytest.warns(DeprecationWarning):
        config = old_experiment(
            INPUT=dict(MIN_SIZE_TRAIN=(640,), AUG=dict(TRAIN_PIPELINES=pipeline))
        )
    assert [tuple(step) for step in config.INPUT.AUG.TRAIN_PIPELINES] == [
        ("RandomFlip", {}),
        ("ResizeShortestEdge", {"short_edge_length": (640,)}),
    ]
    assert pipeline[1][1] == {"short_edge_length": 800}


def test_old_input_keys_without_a_resize_step():
    with pytest.warns(DeprecationWarning, match="ignored"):
        config = old_experiment(
            INPUT=dict(MIN_SIZE_TRAIN=(640,), AUG=dict(TRAIN_PIPELINES=[("RandomFlip", {})]))
        )
    assert "MIN_SIZE_TRAIN" not in config.INPUT
    assert [step[0] for step in config.INPUT.AUG.TRAIN_PIPELINES] == ["RandomFlip"]


@pytest.mark.parametrize(
    ("old", "value", "group", "new"),
    [
        ("LR_SCHEDULER_NAME", "WarmupCosineLR", "LR_SCHEDULER", "NAME"),
        ("MAX_ITER", 10, "LR_SCHEDULER", "MAX_ITER"),
        ("STEPS", (6, 8), "LR_SCHEDULER", "STEPS"),
        ("WARMUP_FACTOR", 0.5, "LR_SCHEDULER", "WARMUP_FACTOR"),
        ("WARMUP_ITERS", 5, "LR_SCHEDULER", "WARMUP_ITERS"),
        ("WARMUP_METHOD", "constant", "LR_SCHEDULER", "WARMUP_METHOD"),
        ("GAMMA", 0.2, "LR_SCHEDULER", "GAMMA"),
        ("BASE_LR", 0.02, "OPTIMIZER", "BASE_LR"),
        ("BIAS_LR_FACTOR", 2.0, "OPTIMIZER", "BIAS_LR_FACTOR"),
        ("WEIGHT_DECAY", 0.1, "OPTIMIZER", "WEIGHT_DECAY"),
        ("WEIGHT_DECAY_NORM", 0.2, "OPTIMIZER", "WEIGHT_DECAY_NORM"),
        ("WEIGHT_DECAY_BIAS", 0.3, "OPTIMIZER", "WEIGHT_DECAY_BIAS"),
        ("MOMENTUM", 0.8, "OPTIMIZER", "MOMENTUM"),
    ],
)
def test_flat_solver_keys_move(old, value, group, new):
    with pytest.warns(DeprecationWarning, match=rf"SOLVER\.{old} .*SOLVER\.{group}") as caught:
        config = old_experiment(SOLVER={old: value, "IMS_PER_BATCH": 4})
    assert len(caught) == 1
    assert config.SOLVER[group][new] == value
    assert old not in config.SOLVER and config.SOLVER.IMS_PER_BATCH == 4


@pytest.mark.parametrize(("enabled", "dtype"), [(True, "fp16"), (False, "bf16")])
def test_fp16_becomes_amp(enabled, dtype):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = old_experiment(TRAINER=dict(FP16=dict(ENABLED=enabled, TYPE="APEX")))
    assert config.TRAINER.AMP == {"ENABLED": enabled, "DTYPE": dtype}
    assert "FP16" not in config.TRAINER
    assert [w.category for w in caught] == [DeprecationWarning] * enabled


def test_the_warning_points_at_the_experiment():
    with pytest.warns(DeprecationWarning) as caught:
        old_experiment(SOLVER=dict(MAX_ITER=10))
    assert caught[0].filename == __file__


def test_migration_leaves_the_experiments_dict_alone():
    config = {"SOLVER": {"MAX_ITER": 10}, "INPUT": {"MAX_SIZE_TEST": 9}}
    before = copy.deepcopy(config)
    with pytest.warns(DeprecationWarning):
        old_experiment(**config)
    assert config == before


# -- misspelt keys -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "meant"),
    [
        (dict(TEST=dict(EVAL_PEROID=10000)), "TEST.EVAL_PERIOD"),
        (dict(MODEL=dict(FCOS=dict(NUM_CLASES=3))), "MODEL.FCOS.NUM_CLASSES"),
        (dict(SOLVER=dict(IMS_PER_BACH=8)), "SOLVER.IMS_PER_BATCH"),
        (dict(SOLVER=dict(CHECKPOINT_PEROID=8)), "SOLVER.CHECKPOINT_PERIOD"),
        (dict(OUTPUT_DIRS="x"), "OUTPUT_DIR"),
    ],
)
def test_misspelt_key_warns_and_is_kept(config, meant):
    with pytest.warns(UserWarning, match=rf"Did you mean {meant}\?") as caught:
        built = old_experiment(**config)
    assert len(caught) == 1 and caught[0].filename == __file__
    (typed,) = dict(flatten(config))
    assert typed in str(caught[0].message)
    assert dict(flatten(built))[typed] == dict(flatten(config))[typed]


@pytest.mark.parametrize(
    ("parent", "config"),
    [
        (FCOSConfig, dict(MODEL=dict(FCOS=dict(REG_WEIGHT=2.0)))),
        (FCOSConfig, dict(MODEL=dict(ATSS=dict(ANCHOR_SCALE=8, TOPK=9)))),
        (FCOSConfig, dict(MODEL=dict(POTO=dict(ALPHA=0.8, CENTER_SAMPLING_RADIUS=1.5)))),
        (FCOSConfig, dict(MODEL=dict(BORDER=dict(IOU_THRESH=0.6)), TRAINER=dict(SSL={"A": 1}))),
        (FCOSConfig, dict(MODEL=dict(NMS_TYPE=None), DATASETS=dict(SUPERVISED=(int,)))),
        (FCOSConfig, dict(MODEL=dict(RESNETS=dict(DEFORM_ON_PER_STAGE=[False] * 4)))),
        (FCOSConfig, dict(MODEL=dict(RESNETS=dict(DEFORM_NUM_GROUPS=1, DEFORM_MODULATED=True)))),
        (FCOSConfig, dict(TEST=dict(WITH_GT=True), TRAINER=dict(DISTILL=1))),
        (RetinaNetConfig, dict(MODEL=dict(RETINANET=dict(REG_WEIGHT=0.75, REG_NORM=1)))),
        (RetinaNetConfig, dict(MODEL=dict(RETINANET=dict(PSEUDO_SCORE_THRES=0.1)))),
        (RetinaNetConfig, dict(MODEL=dict(RETINANET=dict(MATCHING_IOU_THRES=0.1)))),
        (RetinaNetConfig, dict(MODEL=dict(FREE_ANCHOR=dict(BBOX_THRESHOLD=0.6)))),
    ],
)
def test_keys_of_published_experiments_do_not_warn(parent, config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built = dict(flatten(old_experiment(parent, **config)))
    assert set(dict(flatten(config))) <= set(built)
