"""BaseConfig: the keys that every experiment has."""

from __future__ import annotations

from cvpods.configs.config_dict import ConfigDict

_config_dict = {
    "MODEL": {
        # "cuda", "cuda:1" or "cpu". "cuda" falls back to the CPU where there is none.
        "DEVICE": "cuda",
        # Checkpoint to start from: a path or an address; "" starts from random weights.
        "WEIGHTS": "",
        # Refuse WEIGHTS that expect another input or network than this config's: colours, mean,
        # standard deviation, strides. False: only warn.
        "CHECK_WEIGHTS": True,
        # Accepted for old experiments; only self-supervised ones used it.
        "AS_PRETRAIN": False,
        # Per channel, in the order of INPUT.FORMAT: (image - mean) / std, on the device.
        "PIXEL_MEAN": [103.53, 116.28, 123.675],
        "PIXEL_STD": [1.0, 1.0, 1.0],
        # Accepted for old experiments; torch's DistributedDataParallel is what is used.
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
        # The value that is white in images of more than 8 bits (10 or 12 bits in 16-bit files,
        # floats in 0 ... 1): a number, or "auto", the level of the training images, which the
        # checkpoint keeps. Images of 8 bits are not changed.
        "WHITE_LEVEL": "auto",
        # Refuse images of more pixels (width x height): Pillow's limit against damaged files.
        "MAX_PIXELS": 178_956_970,
        # Accepted for old experiments; box detectors do not read masks.
        "MASK_FORMAT": "polygon",
    },
    "DATASETS": {
        # How the TRAIN data sets become one: (name in the DATASETS registry, keyword arguments).
        "CUSTOM_TYPE": ("ConcatDataset", {}),
        # Names of registered data sets.
        "TRAIN": (),
        # Each is evaluated on its own.
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
        # Batches of images that are all wider than high, or all higher than wide: less padding.
        "ASPECT_RATIO_GROUPING": True,
        # Name in the SAMPLERS registry.
        "SAMPLER_TRAIN": "DistributedGroupSampler",
        # Accepted for old experiments; the training sampler is always endless.
        "ENABLE_INF_SAMPLER": True,
        # Accepted for old experiments.
        "REPEAT_THRESHOLD": 0.0,
        # An image that cannot be read is replaced by another one, and named in the log; where more
        # than this share of the training images is so, the run ends. One never ends it.
        "MAX_CORRUPT_SHARE": 0.01,
        # Leave images without a box out of training. Images with boxes are never left out.
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
        # For models with parameters that some batches leave without a gradient, on several GPUs.
        "FIND_UNUSED_PARAMETERS": False,
        # torch.compile the backbone and the head (needs a C++ compiler on CPUs).
        "COMPILE": False,
        # Where a loss or a gradient is infinite or NaN, no weight changes and the batch is written
        # to OUTPUT_DIR/nonfinite_*.pt (pods_debug replay). Then "stop", or "skip" the step, at most
        # MAX_SKIPPED in a row; more than MAX_SKIPPED_SHARE of all steps (and more than one) end the
        # run, once 20 are done.
        "NONFINITE": {"POLICY": "stop", "MAX_SKIPPED": 10, "MAX_SKIPPED_SHARE": 0.1},
        # Console losses are medians over this many iterations.
        "WINDOW_SIZE": 20,
    },
    "SOLVER": {
        "LR_SCHEDULER": {
            # "WarmupMultiStepLR" or "WarmupCosineLR".
            "NAME": "WarmupMultiStepLR",
            "MAX_ITER": 40000,
            # Train for so many epochs instead; MAX_ITER is then computed, and STEPS,
            # WARMUP_ITERS, CHECKPOINT_PERIOD and TEST.EVAL_PERIOD are read as epochs.
            "MAX_EPOCH": None,
            # Iterations after which the learning rate is multiplied by GAMMA.
            "STEPS": (30000,),
            "GAMMA": 0.1,
            # The first WARMUP_ITERS iterations run at WARMUP_FACTOR x lr ("constant"), or rise
            # from there to lr ("linear"), or as (t / WARMUP_ITERS)^4 ("burnin").
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
            # Weight decay of biases; None leaves them with the decay of their layer.
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
        # Iterations between checkpoints; 0 saves the final one only, < 0 none.
        "CHECKPOINT_PERIOD": 5000,
        # Images of one optimiser step, over all processes. Kept for any number of GPUs.
        "IMS_PER_BATCH": 16,
        # Images that one process handles at once; gradients accumulate over the rest of its share.
        "IMS_PER_DEVICE": 2,
        # Split IMS_PER_DEVICE further: at most IMS_PER_DEVICE / BATCH_SUBDIVISIONS images at once.
        "BATCH_SUBDIVISIONS": 1,
        # Where memory does not suffice, halve the images at once and accumulate (--auto-batch).
        "AUTO_BATCH": False,
        # "": keep IMS_PER_BATCH and the schedule. "linear": cvpods' rule, one process handles
        # IMS_PER_DEVICE images, lr and schedule scale with the total against IMS_PER_BATCH.
        "AUTO_SCALE": "",
    },
    "TEST": {
        # [task, metric, value, tolerance] each; pods_test exits non-zero where one is missed.
        "EXPECTED_RESULTS": [],
        # Iterations between evaluations during training; 0 evaluates at the end only, < 0 never.
        "EVAL_PERIOD": 0,
        # Accepted for old experiments; keypoints are not evaluated.
        "KEYPOINT_OKS_SIGMAS": [],
        "DETECTIONS_PER_IMAGE": 100,
        # Objects marked "ignore": 1 neither need a detection nor make one wrong. False: they are
        # objects like others, as in pycocotools. VOC's difficult objects are always left out.
        "LEAVE_OUT_IGNORED": False,
        # Images that one process tests at once. Only images of one size share a batch, so that
        # results do not depend on this number.
        "IMS_PER_DEVICE": 1,
        # Weights that know their class names are mapped to the classes of the data set by name, and
        # refused where the names differ. True: class i is class i, whatever the names are.
        "CLASSES_BY_POSITION": False,
        # Of a graph that MODEL.WEIGHTS names (x.onnx, x.pt2), see docs/deployment.md.
        "GRAPH": {
            # onnxruntime's "cpu", "cuda" or "tensorrt"; "openvino"; "auto": "cuda" on a GPU where
            # onnxruntime has it, else "cpu".
            "PROVIDER": "auto",
            # How images get the size of a graph of fixed size: "fit" (scaled until both sides fit,
            # then padded) or "stretch" (both sides scaled, which distorts them).
            "RESIZE": "fit",
        },
        # Test-time augmentation, see cvpods/modeling/test_time_augmentation.py.
        "AUG": {
            "ENABLED": False,
            # Short edges, each with the long edge kept within MAX_SIZE.
            "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
            "MAX_SIZE": 4000,
            # Each scale once more, mirrored.
            "FLIP": True,
            # Further scales as pairs (short edge, cap of the long edge).
            "EXTRA_SIZES": (),
            # Keep detections with low < sqrt(area) < high only, in pixels of the pass; a pair
            # (low, high) for each scale, those of MIN_SIZES first.
            "SCALE_FILTER": False,
            "SCALE_RANGES": (),
            # Start each pass from the original image; otherwise from that of an ordinary test.
            "FROM_ORIGINAL": False,
            # "soft-vote" or "vote": average what overlaps of each pass's detections; "nms": one NMS
            # of all passes' candidates, without one in each pass.
            "MERGE": "soft-vote",
            # IoU from which boxes vote together.
            "VOTE_THRESH": 0.65,
            # None: as TEST.DETECTIONS_PER_IMAGE.
            "DETECTIONS_PER_IMAGE": None,
        },
        # Accepted for old experiments.
        "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
        # Accepted for old experiments.
        "ON_FILES": False,
    },
    # Where logs, checkpoints and results go. compose() sets <experiment folder>/output.
    "OUTPUT_DIR": "./output",
    # Seed of weights, order and augmentation; < 0 draws one and writes it to the log.
    "SEED": -1,
    # Let cuDNN time its algorithms; pays where image sizes repeat.
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

    def __init__(self, d: dict | None = None, **kwargs: object) -> None:
        super().__init__(d, **kwargs)
        self._register_configuration(_config_dict)


config = BaseConfig()
