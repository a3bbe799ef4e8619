"""Compare this project's detectors with mmdetection's: same weights, same pixels, same numbers.

    pip install "setuptools<80" wheel "mmdet==3.3.0" "mmengine==0.10.7" opencv-python-headless
    MMCV_WITH_OPS=1 pip install --no-build-isolation "mmcv==2.1.0"     # compiles its CPU operators
    python scripts/compare_mmdet.py [--record tests/expect/mmdet]

mmcv 2.1.0 compiles with C++17, but the headers of PyTorch 2.9 and newer need C++20. With these,
unpack the sdist, write -std=c++20 into its setup.py, and pip install the folder.

The methods are FreeAnchor, ATSS, AutoAssign, RetinaNet and FCOS. The script builds mmdetection's
own config with random weights, converts them for playground/<method>.res50.1x.mmdet, and compares
head outputs, losses and detections. `--record` writes mmdetection's results, which
tests/cvpods_ext/convert/test_mmdet.py reads.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvpods.checkpoint import load_weights
from cvpods.structures import Boxes, Instances
from cvpods.tools.experiment import open_experiment
from cvpods_ext.convert.conversion import convert

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE, BOX_TOLERANCE = 1e-4, 1e-3  # the tolerance of boxes is in pixels
# method -> (experiment, mmdetection's config)
METHODS = {
    "free_anchor": ("free_anchor.res50.1x.mmdet", "free_anchor/freeanchor_r50_fpn_1x_coco.py"),
    "atss": ("atss.res50.1x.mmdet", "atss/atss_r50_fpn_1x_coco.py"),
    "auto_assign": (
        "auto_assign.res50.1x.mmdet",
        "autoassign/autoassign_r50-caffe_fpn_1x_coco.py",
    ),
    "retinanet": ("retinanet.res50.1x.mmdet", "retinanet/retinanet_r50_fpn_1x_coco.py"),
    "fcos": ("fcos.res50.1x.mmdet", "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"),
}
# mmdetection's name of a loss -> this project's, if they differ.
LOSSES = {
    "loss_bbox": "loss_box_reg",
    "positive_bag_loss": "loss_pos",
    "negative_bag_loss": "loss_neg",
    "loss_center": "loss_norm",
}
# In pixels: two images of HEIGHT x WIDTH, resized from ORIGINAL.
HEIGHT, WIDTH = 128, 160
ORIGINAL = (192, 240)
BOXES = [
    [[10.3, 12.1, 70.8, 60.2], [60.5, 30.7, 150.2, 120.9], [20.1, 70.3, 52.6, 101.4]],
    [[5.2, 8.4, 100.7, 110.3], [90.1, 20.6, 131.3, 52.2]],
]
CLASSES = [[3, 17, 3], [79, 0]]


def random_weights(shapes: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Draw weights with which activations neither vanish nor explode, and some scores are high.

    numpy's RandomState gives the same numbers in all versions, so that records stay valid.
    """
    random = np.random.RandomState(seed)
    weights = {}
    for name, shape in shapes.items():
        value = random.standard_normal(shape)
        if name.endswith("num_batches_tracked"):
            value = np.zeros(shape)
        elif name.endswith("running_var"):
            value = 1 + 0.5 * np.tanh(value)
        elif name.endswith(("scale", "sigma")):
            value = 1 + 0.2 * np.tanh(value)
        elif name.endswith("mean") or (name.endswith("bias") and not _is_predictor(name)):
            value = 0.1 * value
        elif name.endswith("bias"):
            value = 0.3 * value + (-2.0 if "cls" in name else 2.0 if "conv_reg" in name else 0.0)
        elif len(shape) == 1:  # factors of norms, small at the end of a residual branch
            value = (0.3 if "bn3" in name else 0.8) + 0.1 * value
        else:
            gain = 0.15 if _is_predictor(name) else 1.0
            value = value * gain * math.sqrt(2 / np.prod(shape[1:]))
        dtype = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        weights[name] = torch.as_tensor(value, dtype=dtype)
    return weights


def _is_predictor(name: str) -> bool:
    return name.rpartition(".")[0].endswith(("_cls", "_reg", "_centerness"))


def images() -> Tensor:
    """Draw images of smooth blobs: (2, 3, HEIGHT, WIDTH), uint8, BGR."""
    random = np.random.RandomState(1)
    coarse = torch.as_tensor(random.uniform(0, 255, (2, 3, 8, 10)), dtype=torch.float32)
    fine = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")
    return fine.clamp(0, 255).round().to(torch.uint8)


# -- this project ----------------------------------------------------------------------------------


def run_ours(method: str, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Run the experiment with mmdetection's weights; return head maps, losses and detections."""
    config, build_model = open_experiment(ROOT / "playground" / METHODS[method][0], device="cpu")
    model = build_model(config)
    converted = convert(weights, "mmdet")
    if not converted.complete:
        raise SystemExit(converted.describe())
    load_weights(model, converted.weights, strict=True)
    pixels = images()
    if config.INPUT.FORMAT == "RGB":
        pixels = pixels.flip(1)
    inputs = []
    for image, boxes, classes in zip(pixels, BOXES, CLASSES, strict=True):
        truth = Instances((HEIGHT, WIDTH), gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes))
        size = {"height": ORIGINAL[0], "width": ORIGINAL[1]}
        inputs.append({"image": image, "instances": truth, **size})
    losses = {name: loss.item() for name, loss in model.train()(inputs).items()}
    model.eval()
    with torch.no_grad():
        maps = model.network(model.preprocess_image(inputs))
        found = [output["instances"] for output in model(inputs)]
    maps["box_deltas"] = _box_maps(method, model, maps["box_deltas"])
    best = [_best_first(one) for one in found]
    detections = [_detected(o.pred_boxes.tensor, o.scores, o.pred_classes) for o in best]
    names = ["cls_logits", "box_deltas", "centerness", "obj_score"]
    every = [level for name in names for level in maps.get(name, [])]
    return {"maps": every, "losses": losses, "detections": detections}


def _detected(boxes: Tensor, scores: Tensor, classes: Tensor) -> dict[str, Any]:
    return {"boxes": boxes, "scores": scores, "classes": classes, "count": len(boxes)}


def _best_first(found: Instances) -> Instances:
    return found[found.scores.argsort(descending=True, stable=True)]


def _box_maps(method: str, model: Any, maps: list[Tensor]) -> list[Tensor]:
    """Convert box maps to those of mmdetection's head: FCOS and AutoAssign return distances."""
    if method == "fcos":
        return [model.distances(box, 1) for box in maps]
    if method == "auto_assign":
        strides = model.point_generator.strides
        return [model.distances(box, stride) for box, stride in zip(maps, strides, strict=True)]
    return maps


# -- mmdetection -----------------------------------------------------------------------------------


def build_theirs(method: str) -> Any:
    """Build mmdetection's detector from its own config, without pretrained weights."""
    mmdet = importlib.import_module("mmdet")
    mmengine = importlib.import_module("mmengine")
    importlib.import_module("mmdet.utils").register_all_modules()
    path = Path(mmdet.__path__[0]) / ".mim" / "configs" / METHODS[method][1]
    config = mmengine.Config.fromfile(path)
    config.model.backbone.init_cfg = None
    return importlib.import_module("mmdet.registry").MODELS.build(config.model)


def run_theirs(model: Any, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Run mmdetection's detector; return head maps, losses and detections as run_ours does."""
    structures = importlib.import_module("mmdet.structures")
    data = importlib.import_module("mmengine.structures").InstanceData
    model.load_state_dict(weights)
    samples = []
    for boxes, classes in zip(BOXES, CLASSES, strict=True):
        sample = structures.DetDataSample()
        scale = (WIDTH / ORIGINAL[1], HEIGHT / ORIGINAL[0])
        size = {"img_shape": (HEIGHT, WIDTH), "ori_shape": ORIGINAL, "scale_factor": scale}
        sample.set_metainfo({**size, "pad_shape": (HEIGHT, WIDTH)})
        truth = data(bboxes=torch.tensor(boxes), labels=torch.tensor(classes))
        sample.gt_instances, sample.ignored_instances = truth, data(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    given = {"inputs": list(images()), "data_samples": samples}
    batch = model.train().data_preprocessor(given, True)
    with torch.no_grad():
        losses = model.loss(batch["inputs"], batch["data_samples"])
        model.eval()
        outputs = model._forward(batch["inputs"])
        found = model.predict(batch["inputs"], batch["data_samples"], rescale=True)
    summed = {name: float(sum(v) if isinstance(v, list) else v) for name, v in losses.items()}
    instances = [sample.pred_instances for sample in found]
    return {
        "maps": [_size_major(level) for part in outputs for level in part],
        "losses": {LOSSES.get(name, name): value for name, value in summed.items()},
        "detections": [_detected(one.bboxes, one.scores, one.labels) for one in instances],
    }


def _size_major(level: Tensor) -> Tensor:
    """Reorder maps (N, 9 * C, H, W) of 9 anchors by size, then ratio; keep other maps."""
    if level.shape[1] not in (720, 36):
        return level
    return level.unflatten(1, (3, 3, -1)).transpose(1, 2).flatten(1, 3)


# -- comparison ------------------------------------------------------------------------------------


def summary(outputs: dict[str, Any]) -> dict[str, Any]:
    """Return a record: 40 values of each map at fixed places, losses, 30 detections."""
    random = np.random.RandomState(2)
    maps = []
    for level in outputs["maps"]:
        places = random.randint(0, level.numel(), 40)
        maps.append([round(v, 6) for v in level.flatten()[torch.as_tensor(places)].tolist()])
    detections = [
        {
            "boxes": [[round(v, 3) for v in box] for box in one["boxes"][:30].tolist()],
            "scores": [round(v, 6) for v in one["scores"][:30].tolist()],
            "classes": one["classes"][:30].tolist(),
            "count": one["count"],
        }
        for one in outputs["detections"]
    ]
    return {"maps": maps, "losses": outputs["losses"], "detections": detections}


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Return the largest differences between two runs or two records.

    Those of maps and losses are relative, those of boxes in pixels. If the detections differ in
    number or class, those of scores and boxes are infinite.
    """
    worst = {"maps": 0.0, "losses": 0.0, "scores": 0.0, "boxes": 0.0}
    for first, second in zip(ours["maps"], theirs["maps"], strict=True):
        worst["maps"] = max(worst["maps"], _largest(first, second, relative=True))
    for name, value in theirs["losses"].items():
        difference = _largest([ours["losses"][name]], [value], relative=True)
        worst["losses"] = max(worst["losses"], difference)
    for first, second in zip(ours["detections"], theirs["detections"], strict=True):
        same = np.array_equal(first["classes"], second["classes"])
        if not same or first["count"] != second["count"]:
            worst["scores"] = worst["boxes"] = math.inf
            continue
        for key in ("scores", "boxes"):
            worst[key] = max(worst[key], _largest(first[key], second[key]))
    return worst


def _largest(first: Any, second: Any, relative: bool = False) -> float:
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    scale = max(1.0, np.abs(second).max(initial=0.0)) if relative else 1.0
    return float(np.abs(first - second).max(initial=0.0) / scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*", default=list(METHODS), metavar="METHOD", help="all")
    parser.add_argument("--record", type=Path, help="folder for mmdetection's results")
    args = parser.parse_args()
    passed = True
    for method in args.methods:
        model = build_theirs(method)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        weights = random_weights(shapes)
        theirs = run_theirs(model, weights)
        found = differences(run_ours(method, weights), theirs)
        passed &= max(found["maps"], found["losses"], found["scores"]) <= TOLERANCE
        passed &= found["boxes"] <= BOX_TOLERANCE
        numbers = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
        detections = [one["count"] for one in theirs["detections"]]
        print(f"{method}: differences: {numbers}; {detections} detections")
        if args.record:
            args.record.mkdir(parents=True, exist_ok=True)
            content = json.dumps({"shapes": shapes, **summary(theirs)}, separators=(",", ":"))
            (args.record / f"{method}.json").write_text(content + "\n", encoding="utf-8")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
