"""Every experiment folder: composes, is named after what it configures, builds, trains, detects.

Golden files: tests/expect/<experiment>.json holds what an experiment's resolved configuration
differs in from its method's base. After an intended change, write them again with

    python tests/playground/test_experiments.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from cvpods.checkpoint.expectations import check_expectations
from cvpods.configs.config_dict import flatten
from cvpods.layers import DeformConv
from cvpods.modeling.meta_arch import DenseDetector
from cvpods.structures import Boxes, Instances
from cvpods.tools.experiment import load_experiment
from cvpods_ext.configs import fragments
from cvpods_ext.configs.frameworks import ARITHMETIC

ROOT = Path(__file__).resolve().parents[2]
EXPECT = ROOT / "tests" / "expect"
FOLDERS = sorted(path.parent for path in (ROOT / "playground").rglob("config.py"))
NUM_EXPERIMENTS = 57

METHODS = {
    "atss": "ATSS",
    "auto_assign": "AUTO_ASSIGN",
    "fcos": "FCOS",
    "feature_align": "FEATURE_ALIGN",
    "free_anchor": "FREE_ANCHOR",
    "retinanet": "RETINANET",
}
# (depth, groups, width of a group)
BACKBONES = {
    "res18": (18, 1, 64),
    "res50": (50, 1, 64),
    "res101": (101, 1, 64),
    "resx101_32x4d": (101, 32, 4),
    "resx101_32x8d": (101, 32, 8),
    "resx101_64x4d": (101, 64, 4),
}
SCALES = {
    "ms": tuple(range(640, 801, 32)),
    "ms1": tuple(range(480, 801, 32)),
    "ms2": tuple(range(480, 961, 32)),
}
ITERATIONS = {"1x": 90_000, "1_5x": 135_000, "2x": 180_000}
POSITIVE_TYPES = {"iou": "IoU", "ssc": "SSC", "topk": "TOPK"}


def difference(folder: Path) -> dict:
    """The resolved configuration's difference from its class' defaults, without OUTPUT_DIR."""
    config, _ = load_experiment(folder)
    base = type(config)()
    return {k: v for k, v in flatten(config.diff(base)) if k != "OUTPUT_DIR"}


def test_count():
    assert len(FOLDERS) == NUM_EXPERIMENTS
    assert all((folder / "net.py").is_file() for folder in FOLDERS)


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request) -> Path:
    return request.param


def test_golden(folder):
    path = EXPECT / f"{folder.name}.json"
    assert path.is_file(), f"write it: python {Path(__file__).relative_to(ROOT)}"
    # Through json, so that tuples and lists compare alike.
    actual = json.loads(json.dumps(difference(folder)))
    expected = json.loads(path.read_text())
    assert actual == expected, f"if wanted: python {Path(__file__).relative_to(ROOT)}"


def test_no_golden_file_without_experiment():
    assert {p.stem for p in EXPECT.glob("*.json")} == {f.name for f in FOLDERS}


def test_name_says_what_the_config_says(folder):
    config, _ = load_experiment(folder)
    method, *tokens = folder.name.split(".")
    assert METHODS[method] in config.MODEL
    resnets = config.MODEL.RESNETS
    for token in tokens:
        check_token(token, folder.name, config)
    if "dcnv2" not in tokens:
        assert not any(resnets.DEFORM_ON_PER_STAGE)
        assert not config.MODEL.get("ATSS", {}).get("USE_DCN_IN_TOWER", False)
    if method == "feature_align":
        parts = config.MODEL.FEATURE_ALIGN
        assert (parts.FEATURE_FILTER, parts.QUALITY_WEIGHT, parts.MDQ) == (True, True, "learned")
        with_g_rfa = "assign_only" not in tokens
        assert (parts.ATTENTION.ENABLED, parts.USE_DCN_IN_TOWER) == (with_g_rfa, with_g_rfa)
    if method in ("atss", "free_anchor") and "mmdet" not in tokens and on_coco(config):
        # The authors' code is maskrcnn-benchmark's.
        check_expectations(config, ARITHMETIC["maskrcnn_benchmark"][METHODS[method]], method)
    if on_coco(config) and not set(tokens) & set(SCALES):
        if method == "atss" and "2x" in tokens:  # a random whole number
            assert short_edges(config, "range") == (640, 800)
        elif method in ("auto_assign", "feature_align") and "2x" in tokens:  # one of the two
            assert short_edges(config) == (640, 800)
        else:
            assert short_edges(config) == (800,)


def on_coco(config) -> bool:
    return "coco_2017_train" in config.DATASETS.TRAIN


def check_token(token: str, name: str, config) -> None:
    """Hold one word of an experiment's name against its configuration."""
    resnets, solver = config.MODEL.RESNETS, config.SOLVER
    if token in BACKBONES:
        actual = (resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP)
        assert actual == BACKBONES[token]
    elif token in ITERATIONS:
        assert solver.LR_SCHEDULER.MAX_ITER == ITERATIONS[token]
        assert solver.IMS_PER_BATCH == 16
    elif token in SCALES:
        assert short_edges(config) == SCALES[token]
    elif token == "dcnv2":
        assert resnets.DEFORM_MODULATED and config.MODEL.ATSS.USE_DCN_IN_TOWER
        assert resnets.DEFORM_ON_PER_STAGE == deformable_stages(name)
    elif token in POSITIVE_TYPES:
        assert config.MODEL.ATSS.POSITIVE_TYPE == POSITIVE_TYPES[token]
    elif token == "mmdet":
        method = name.partition(".")[0].upper()
        caffe = method in ("FCOS", "AUTO_ASSIGN")  # the others' backbones are torchvision's
        assert config.INPUT.FORMAT == ("BGR" if caffe else "RGB")
        check_expectations(config, ARITHMETIC["mmdet"][method], name)
    elif token == "assign_only":
        assert "FEATURE_ALIGN" in config.MODEL
    elif token == "mobilenetv2":
        assert resnets.DEPTH is None
    else:  # a data set
        assert config.DATASETS.TRAIN[0].startswith(token)


def deformable_stages(name: str) -> list[bool]:
    """c3-c5 of ResNets, c4-c5 of ResNeXts; the trials' ResNet-18 ends at c4, deformable there."""
    if "res18" in name:
        return [False, False, True, False]
    return [False, "resx" not in name, True, True]


def short_edges(config, style: str = "choice") -> tuple[int, ...]:
    (name, arguments), _ = config.INPUT.AUG.TRAIN_PIPELINES
    assert name == "ResizeShortestEdge"
    assert (arguments["max_size"], arguments["sample_style"]) == (1333, style)
    return tuple(arguments["short_edge_length"])


def test_files_are_short_and_documented(folder):
    """An experiment is a claim plus a difference."""
    text = (folder / "config.py").read_text()
    for word in ("Paper", "Expected", "Run", "Differs"):
        assert re.search(rf"^{word} ", text, re.MULTILINE), word
    code = [line for line in text.split('"""')[2].splitlines() if line.strip()]
    assert len(code) <= 60
    assert len((folder / "net.py").read_text().splitlines()) <= 15
    assert not re.search(r"MODEL\.FCOS", text)


def test_output_lies_in_the_folder(folder, monkeypatch, tmp_path):
    monkeypatch.delenv("CVPODS_OUTPUT", raising=False)
    assert load_experiment(folder)[0].OUTPUT_DIR == str(folder / "output")
    monkeypatch.setenv("CVPODS_OUTPUT", str(tmp_path))
    assert load_experiment(folder)[0].OUTPUT_DIR == str(tmp_path / folder.name)


def test_builds_at_full_size(folder, monkeypatch):
    """On the meta device, the network gives the outputs of every location of an image."""
    # Neither autocast nor torchvision's deformable convolution knows the meta device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(DeformConv, "by_operator", False)
    config, build_model = load_experiment(folder)
    with torch.device("meta"):
        model = build_model(config)
        images = model.preprocess_image([{"image": torch.zeros(3, 64, 96, dtype=torch.uint8)}])
    predictions, priors = model.predict(images)
    locations = sum(len(level) for level in priors)
    assert len(priors) == len(model.in_features)
    assert predictions.keys() == model.output_channels.keys()
    for name, channels in model.output_channels.items():
        assert predictions[name].shape == (1, locations, channels or model.num_classes)


# Narrow networks on ResNet-18; the methods, their parts and their arithmetic stay.
NARROW = {
    **fragments.RES18,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.WEIGHTS": "",
}


def narrow(folder: Path) -> tuple[str, Callable[[], DenseDetector]]:
    """Return what the narrow model of an experiment depends on, and how to build it."""
    config, build_model = load_experiment(folder)
    group = METHODS[folder.name.partition(".")[0]]
    without_resnet = config.MODEL.RESNETS.DEPTH is None
    config.override({k: v for k, v in NARROW.items() if not (without_resnet and "RESNETS" in k)})
    config.override({f"MODEL.{group}.NUM_CONVS": 1, f"MODEL.{group}.NUM_CLASSES": 6})
    depends_on = repr((dict(flatten(config.MODEL)), (folder / "net.py").read_text()))
    return depends_on, lambda: build_model(config)


TRAINED: set[str] = set()


def test_trains_and_detects(folder):
    """A training and an evaluation step of the narrow model, one of the images without boxes.

    Experiments that share this model share the steps.
    """
    key, build = narrow(folder)
    if key in TRAINED:
        return
    torch.manual_seed(0)
    model = build()
    boxes = Boxes([[4.0, 8, 60, 50], [30.0, 20, 90, 60]])
    classes = torch.tensor([0, model.num_classes - 1])
    empty = Instances((64, 96), gt_boxes=Boxes([]), gt_classes=torch.zeros(0, dtype=torch.int64))
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    full = Instances((64, 96), gt_boxes=boxes, gt_classes=classes)
    losses = model([{"image": image, "instances": i} for i in (full, empty)])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, missing
    model.eval()
    with torch.no_grad():
        (output,) = model([{"image": image, "height": 128, "width": 192}])
    assert output["instances"].image_size == (128, 192)
    TRAINED.add(key)


def main() -> None:
    EXPECT.mkdir(exist_ok=True)
    for folder in FOLDERS:
        content = json.dumps(difference(folder), indent=1, sort_keys=True)
        (EXPECT / f"{folder.name}.json").write_text(content + "\n")
        print(f"wrote {folder.name}.json")


if __name__ == "__main__":
    sys.exit(main())
