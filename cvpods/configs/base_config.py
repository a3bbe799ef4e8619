"""Keys that every experiment has, with their defaults."""

from __future__ import annotations

from cvpods.configs.config_dict import ConfigDict

_config_dict = {
    "MODEL": {
        # "cuda", "cuda:1" or "cpu". "cuda" falls back to the CPU on a machine without GPUs.
        "DEVICE": "cuda",
        # Checkpoint to start from, a path or an address. "" starts from random weights.
        "WEIGHTS": "",
        # Refuse WEIGHTS that expect another input or network than this config has: colours, mean,
        # standard deviation, strides. False only warns.
        "CHECK_WEIGHTS": True,
        # Accepted for old experiments; only self-supervised ones used it.
        "AS_PRETRAIN": False,
        # Per channel, in the order of INPUT.FORMAT: (image - mean) / std, on the device.
        "PIXEL_MEAN": [103.53, 116.28, 123.675],
        "PIXEL_STD": [1.0, 1.0, 1.0],
        # Accepted for old experiments; torch's DistributedDataParallel is always used.
        "DDP_BACKEND": "torch",
    },
    "INPUT": {
        # Steps of (transform name, keyword arguments), see cvpods/data/transforms.
        "AUG": {
            "TRAIN_PIPELINES": [
                (
                    "ResizeShortestEdge",
                    {"short_edge_length": (800,), "max_size": 1333, "sample_style": "choice"},
                ),
                ("RandomFlip", {}),
            ],
            "TEST_PIPELINES": [
                (
                    "ResizeShortestEdge",
                    {"short_edge_length": 800, "max_size": 1333, "sample_style": "choice"},
                ),
            ],
        },
        # Channel order of the images that the model gets: "BGR" or "RGB".
        "FORMAT": "BGR",
        # Value of white in images of more than 8 bits (10 or 12 bits in 16-bit files, floats in
        # 0 ... 1): a number, or "auto" for the level of the training images, which the checkpoint
        # keeps. Images of 8 bits are not changed.
        "WHITE_LEVEL": "auto",
        # Refuse images of more pixels (width x height), as Pillow does against damaged files.
        "MAX_PIXELS": 178_956_970,
        # Accepted for old experiments; box detectors do not read masks.
        "MASK_FORMAT": "polygon",
    },
    "DATASETS": {
        # The class that joins the TRAIN data sets: (name in the DATASETS registry, keyword
        # arguments).
        "CUSTOM_TYPE": ("ConcatDataset", {}),
        # Names of registered data sets.
        "TRAIN": (),
        # Names of registered data sets; each is evaluated separately.
        "TEST": (),
        # Accepted for old experiments; proposals are not used by dense detectors.
        "PROPOSAL_FILES_TRAIN": (),
        "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
        "PROPOSAL_FILES_TEST": (),
        "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    },
    "DATALOADER": {
        # Worker processes per training process; 0 loads in the training process.
        "NUM_WORKERS": 2,
        # Make batches of images that are all wider than high, or all higher than wide, which
        # reduces padding.
        "ASPECT_RATIO_GROUPING": True,
        # Name in the SAMPLERS registry.
        "SAMPLER_TRAIN": "DistributedGroupSampler",
        # Accepted for old experiments; the training sampler is always endless.
        "ENABLE_INF_SAMPLER": True,
        # Accepted for old experiments.
        "REPEAT_THRESHOLD": 0.0,
        # An image that cannot be read is replaced by another one and named in the log. The run
        # ends when more than this share of the training images is unreadable; a single one never
        # ends it.
        "MAX_CORRUPT_SHARE": 0.01,
        # Leave images without boxes out of training.
        "FILTER_EMPTY_ANNOTATIONS": True,
    },
    "TRAINER": {
        # Name in the RUNNERS registry.
        "NAME": "DefaultRunner",
        # Mixed precision. DTYPE "bf16", or "fp16" with a gradient scaler.
        "AMP": {"ENABLED": False, "DTYPE": "bf16"},
        # Exponential moving average of the weights; evaluation and model_final use it.
        "EMA": {"ENABLED": False, "DECAY": 0.9998},
        # Memory layout of images and weights in convolutions; faster on most CPUs and GPUs.
        "CHANNELS_LAST": False,
        # On several GPUs, for models with parameters that get no gradient from some batches.
        "FIND_UNUSED_PARAMETERS": False,
        # torch.compile the backbone and the head (needs a C++ compiler on CPUs).
        "COMPILE": False,
        # When a loss or a gradient is infinite or NaN, weights stay as they are, and the batch is
        # written to OUTPUT_DIR/nonfinite_*.pt (pods_debug replay). POLICY "stop" ends the run;
        # "skip" skips the step, at most MAX_SKIPPED steps in a row. After 20 steps, the run also
        # ends when more than MAX_SKIPPED_SHARE of all steps (and more than one) were skipped.
        "NONFINITE": {"POLICY": "stop", "MAX_SKIPPED": 10, "MAX_SKIPPED_SHARE": 0.1},
        # Console losses are medians over this many iterations.
        "WINDOW_SIZE": 20,
    },
    "SOLVER": {
        "LR_SCHEDULER": {
            # "WarmupMultiStepLR" or "WarmupCosineLR".
            "NAME": "WarmupMultiStepLR",
            "MAX_ITER": 40000,
            # Train for this number of epochs instead. MAX_ITER is then computed, and STEPS,
            # WARMUP_ITERS, CHECKPOINT_PERIOD and TEST.EVAL_PERIOD count epochs.
            "MAX_EPOCH": None,
            # Iterations after which the learning rate is multiplied by GAMMA.
            "STEPS": (30000,),
            "GAMMA": 0.1,
            # The rate of the first WARMUP_ITERS iterations is WARMUP_FACTOR x lr ("constant"),
            # rises from there to lr ("linear"), or is (t / WARMUP_ITERS)^4 x lr ("burnin").
            "WARMUP_FACTOR": 0.001,
            "WARMUP_ITERS": 1000,
            "WARMUP_METHOD": "linear",
        },
        "OPTIMIZER": {
            # "D2SGD" (or "SGD") or "AdamW".
            "NAME": "D2SGD",
            "BASE_LR": 0.001,
            # Learning-rate factor of biases.
            "BIAS_LR_FACTOR": 1.0,
            "WEIGHT_DECAY": 1e-4,
            # Weight decay of normalisation layers.
            "WEIGHT_DECAY_NORM": 0.0,
            # Weight decay of biases; None gives them the decay of their layer.
            "WEIGHT_DECAY_BIAS": None,
            "MOMENTUM": 0.9,
        },
        "CLIP_GRADIENTS": {
            "ENABLED": False,
            # "value" clips each element, "norm" each tensor's norm, "full_model" the norm of all.
            "CLIP_TYPE": "value",
            "CLIP_VALUE": 1.0,
            "NORM_TYPE": 2.0,
        },
        # Iterations between checkpoints; 0 saves only the final one, < 0 none.
        "CHECKPOINT_PERIOD": 5000,
        # Images of one optimiser step over all processes, whatever the number of GPUs.
        "IMS_PER_BATCH": 16,
        # Images that one process handles at once; gradients accumulate until its share is done.
        "IMS_PER_DEVICE": 2,
        # Handle at most IMS_PER_DEVICE / BATCH_SUBDIVISIONS images at once.
        "BATCH_SUBDIVISIONS": 1,
        # When memory is spent, halve the images at once and accumulate (--auto-batch).
        "AUTO_BATCH": False,
        # "" keeps IMS_PER_BATCH and the schedule. "linear" is cvpods' rule: each process handles
        # IMS_PER_DEVICE images, and lr and schedule scale with their total / IMS_PER_BATCH.
        "AUTO_SCALE": "",
    },
    "TEST": {
        # Entries [task, metric, value, tolerance]; pods_test exits with 1 if one is missed.
        "EXPECTED_RESULTS": [],
        # Iterations between evaluations during training; 0 evaluates only at the end, < 0 never.
        "EVAL_PERIOD": 0,
        # Accepted for old experiments; keypoints are not evaluated.
        "KEYPOINT_OKS_SIGMAS": [],
        "DETECTIONS_PER_IMAGE": 100,
        # True: an object marked "ignore": 1 needs no detection, and a detection of it is not wrong.
        # False: it is an object like any other, as in pycocotools. VOC's difficult objects are
        # always left out.
        "LEAVE_OUT_IGNORED": False,
        # Images that one process tests at once. Only images of the same size share a batch, so
        # results do not depend on this number.
        "IMS_PER_DEVICE": 1,
        # False: weights that hold class names are mapped to the classes of the data set by name,
        # and refused if the names differ. True: class i is class i, whatever the names are.
        "CLASSES_BY_POSITION": False,
        # For a graph that MODEL.WEIGHTS names (x.onnx, x.pt2), see docs/deployment.md.
        "GRAPH": {
            # onnxruntime's "cpu", "cuda" or "tensorrt"; "openvino"; or "auto", which is "cuda" on a
            # GPU that onnxruntime supports, otherwise "cpu".
            "PROVIDER": "auto",
            # The way that images get the size of a graph of fixed size: "fit" (scaled until both
            # sides fit, then padded) or "stretch" (both sides scaled, which distorts them).
            "RESIZE": "fit",
        },
        # Test-time augmentation, see cvpods/modeling/test_time_augmentation.py.
        "AUG": {
            "ENABLED": False,
            # Short edges; the long edge stays within MAX_SIZE.
            "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
            "MAX_SIZE": 4000,
            # Repeat each scale on the mirrored image.
            "FLIP": True,
            # Further scales as pairs (short edge, cap of the long edge).
            "EXTRA_SIZES": (),
            # Keep only detections with low < sqrt(area) < high, in pixels of the pass.
            # SCALE_RANGES has a pair (low, high) for each scale, those of MIN_SIZES first.
            "SCALE_FILTER": False,
            "SCALE_RANGES": (),
            # Start each pass from the original image instead of the image of an ordinary test.
            "FROM_ORIGINAL": False,
            # "soft-vote" or "vote": average overlapping detections of the passes. "nms": one NMS of
            # all candidates, without NMS in each pass.
            "MERGE": "soft-vote",
            # Boxes of at least this IoU vote together.
            "VOTE_THRESH": 0.65,
            # None means TEST.DETECTIONS_PER_IMAGE.
            "DETECTIONS_PER_IMAGE": None,
        },
        # Accepted for old experiments.
        "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
        # Accepted for old experiments.
        "ON_FILES": False,
    },
    # Folder for logs, checkpoints and results. compose() sets <experiment folder>/output.
    "OUTPUT_DIR": "./output",
    # Seed of weights, order and augmentation; < 0 draws one and writes it to the log.
    "SEED": -1,
    # Let cuDNN time its algorithms, which pays when image sizes repeat.
    "CUDNN_BENCHMARK": False,
    # Accepted for old experiments.
    "VIS_PERIOD": 0,
    "GLOBAL": {
        "HACK": 1.0,
        # Iterations between progress lines and metrics.json records.
        "LOG_INTERVAL": 20,
        # Accepted for old experiments: OUTPUT_DIR/inference/results.md is always written.
        "DUMP_TRAIN": True,
        "DUMP_TEST": False,
    },
}


class BaseConfig(ConfigDict):
    """Defaults of every experiment."""

    # For editors and type checkers. At run time a group is an EasyDict: a dict with attributes too.
    MODEL: ConfigDict
    INPUT: ConfigDict
    DATASETS: ConfigDict
    DATALOADER: ConfigDict
    TRAINER: ConfigDict
    SOLVER: ConfigDict
    TEST: ConfigDict
    GLOBAL: ConfigDict
    OUTPUT_DIR: str
    SEED: int
    CUDNN_BENCHMARK: bool
    VIS_PERIOD: int

    def __init__(self, d: dict | None = None, **kwargs: object) -> None:
        super().__init__(d, **kwargs)
        self._register_configuration(_config_dict)


config = BaseConfig()
