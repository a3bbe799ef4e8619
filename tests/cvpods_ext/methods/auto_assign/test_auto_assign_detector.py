"""AutoAssign as a detector: its network, its points and boxes, its losses, how it detects."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvpods.modeling.anchor_generator import PointGrid
from cvpods.modeling.backbone import Backbone, build_resnet_fpn_p3_p7
from cvpods.modeling.backbone.fpn import build_p3_p7_pyramid
from cvpods.modeling.meta_arch import DenseHead
from cvpods.solver.optimizer import build_optimizer
from cvpods.structures import ImageList, pairwise_iou
from cvpods.tools.experiment import load_experiment
from cvpods_ext.methods.auto_assign import AutoAssign, AutoAssignConfig
from cvpods_ext.methods.auto_assign import detector as module
from cvpods_ext.methods.auto_assign.loss import auto_assign_loss
from cvpods_ext.methods.feature_align import FeatureAlignConfig, build_resnet_attention_fpn_p3_p7
from tests.cvpods.modeling.test_dense_detectors import (
    CHANNELS,
    CLASSES,
    FIRST,
    GRIDS,
    LEVELS,
    LOCATIONS,
    NOTHING,
    SCALES,
    SECOND,
    STRIDES,
    DenseDetectorTests,
    empty_features,
    ground_truth,
    head_keys,
    loss_history,
    make_inputs,
)

ROOT = Path(__file__).resolve().parents[4]
FOLDERS = [p for m in ("auto_assign", "feature_align") for p in ROOT.glob(f"playground/{m}.*")]
LOSSES = {"loss_pos", "loss_neg", "loss_norm"}
CONFIGS = {"AUTO_ASSIGN": AutoAssignConfig, "FEATURE_ALIGN": FeatureAlignConfig}
OUTPUTS = {"cls_logits": CLASSES, "box_deltas": 4, "obj_score": 1}


class TinyBackbone(Backbone):
    """Three convolutions, one for each of res3, res4 and res5."""

    def __init__(self) -> None:
        super().__init__()
        self._out_features = ["res3", "res4", "res5"]
        self._out_feature_strides = {"res3": 8, "res4": 16, "res5": 32}
        self._out_feature_channels = {"res3": 8, "res4": 16, "res5": 16}
        self.res3 = nn.Conv2d(3, 8, 8, stride=8)
        self.res4 = nn.Conv2d(8, 16, 2, stride=2)
        self.res5 = nn.Conv2d(16, 16, 2, stride=2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for name in self._out_features:
            x = outputs[name] = getattr(self, name)(x).relu()
        return outputs


def tiny_config(method: str = "AUTO_ASSIGN", **values: Any) -> Any:
    """3 classes, one convolution in each tower; `values` of the method.

    FeatureAlign's attention has one layer of two heads and no dropout.
    """
    config = CONFIGS[method]()
    config.MODEL.DEVICE = "cpu"
    config.MODEL.WEIGHTS = ""
    config.MODEL.FPN.OUT_CHANNELS = CHANNELS
    if method == "FEATURE_ALIGN":
        config.MODEL[method].ATTENTION.update(
            NUM_LAYERS=1, NUM_HEADS=2, FEEDFORWARD_DIM=16, DROPOUT=0.0
        )
    config.merge(MODEL={method: {"NUM_CLASSES": CLASSES, "NUM_CONVS": 1, **values}})
    return config


def own_parts(deformable: bool = False) -> dict[str, Any]:
    """What AutoAssign and FeatureAlign have beside other detectors' arguments."""
    head = DenseHead(
        in_channels=CHANNELS,
        num_convs=1,
        num_classes=CLASSES,
        norm="GN",
        quality="obj_score",
        num_scales=5,
        box_bias=4.0,
        deformable=deformable,
    )
    return {"head": head, "point_generator": PointGrid(strides=STRIDES)}


def from_config(config: Any = None, **values: Any) -> AutoAssign:
    config = tiny_config(**values) if config is None else config
    torch.manual_seed(0)
    return AutoAssign.from_config(config, backbone=build_p3_p7_pyramid(config, TinyBackbone()))


@functools.cache
def tiny_backbone() -> Backbone:
    torch.manual_seed(0)
    return build_p3_p7_pyramid(tiny_config(), TinyBackbone())


def random_predictions(images: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(images, LOCATIONS, channels, generator=generator)
        for name, channels in OUTPUTS.items()
    }


def boxes_of(*truths: tuple) -> tuple[list[Tensor], list[Tensor]]:
    """gt_boxes and gt_classes as the loss takes them."""
    boxes = [torch.tensor(boxes).float().view(-1, 4) for boxes, _ in truths]
    return boxes, [torch.tensor(classes).long() for _, classes in truths]


@pytest.fixture(autouse=True)
def one_thread():
    """Threads add up in an order of their own, and gain nothing on maps of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TestAutoAssignDetector(DenseDetectorTests):
    loss_names = LOSSES
    head_keys = head_keys([0, 1], "obj_score") | SCALES
    other_keys = {"mu", "sigma"}
    stub_channels = OUTPUTS

    def build(self, **arguments):
        return AutoAssign(**{**own_parts(), **arguments, "backbone": tiny_backbone()})

    @pytest.mark.parametrize("images", [1, 2])
    def test_training_without_a_box(self, images):
        """Every parameter, mu and sigma included, has a gradient: train() checks it."""
        losses = self.train(self.make(), make_inputs(*[NOTHING] * images))
        assert losses["loss_neg"] > 0 and losses["loss_pos"] == losses["loss_norm"] == 0

    @pytest.mark.parametrize(
        "box", [[10, 10, 10, 30], [10, 10, 30, 10], [16, 16, 16, 16]], ids=["x", "y", "point"]
    )
    def test_box_without_area_changes_nothing(self, box):
        """But the count of boxes, 4 instead of 3; and it costs 100, as a bag without locations.

        loss_pos = (3 loss_pos' + .25 * 100) / 4; loss_norm = 4/3 loss_norm'.
        """
        boxes, classes = FIRST
        losses = self.train(self.make(), make_inputs(([*boxes, box], [*classes, 1])))
        before = self.losses_of(FIRST)
        assert losses["loss_neg"].item() == pytest.approx(before["loss_neg"], rel=1e-4)
        expected = (3 * before["loss_pos"] + 25) / 4
        assert losses["loss_pos"].item() == pytest.approx(expected, rel=1e-4)
        assert losses["loss_norm"].item() == pytest.approx(4 / 3 * before["loss_norm"], rel=1e-4)


def auto_assign(**arguments: Any) -> AutoAssign:
    """From plain arguments."""
    return TestAutoAssignDetector().make(**arguments)


# -- the network ---------------------------------------------------------------------------------


def test_towers():
    """Four times a 3x3 convolution with bias, GroupNorm of 32 groups, ReLU; in both towers."""
    head = from_config(NUM_CONVS=4).head
    for tower in (head.cls_subnet, head.bbox_subnet):
        assert [type(layer) for layer in tower] == [nn.Conv2d, nn.GroupNorm, nn.ReLU] * 4
        for conv, norm in zip(tower[::3], tower[1::3], strict=True):
            assert conv.weight.shape == (CHANNELS, CHANNELS, 3, 3) and conv.bias is not None
            assert norm.num_groups == 32 and norm.num_channels == CHANNELS
    assert head.cls_subnet[0] is not head.bbox_subnet[0]
    for predictor, channels in (
        (head.cls_score, CLASSES),
        (head.bbox_pred, 4),
        (head.obj_score, 1),
    ):
        assert predictor.weight.shape == (channels, CHANNELS, 3, 3) and predictor.bias is not None


def test_initial_values():
    """Convolutions N(0, .01); biases 0, but of the class -log 49 and of the box 4.

    Almost a third of a normal distribution lies beyond its standard deviation, and none of the
    first values of a uniform one beyond 1.73 of it.
    """
    model = from_config(NUM_CONVS=4)
    biases = {"cls_score": -math.log(49), "bbox_pred": 4.0}
    convs = [(n, m) for n, m in model.head.named_modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 8 + 3
    for name, conv in convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1), name
        assert conv.weight.mean().abs() < 0.002 and conv.weight.abs().max() > 0.025, name
        assert conv.bias.tolist() == pytest.approx([biases.get(name, 0.0)] * len(conv.bias)), name
    norms = [m for m in model.head.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 8
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)
    assert [scale.scale.tolist() for scale in model.head.scales] == [[1.0]] * 5
    assert model.mu.tolist() == [[0.0, 0.0]] * CLASSES
    assert model.sigma.tolist() == [[1.0, 1.0]] * CLASSES


@pytest.mark.parametrize("num_classes", [1, 7])
def test_prior_has_as_many_classes_as_the_config(num_classes):
    model = from_config(NUM_CLASSES=num_classes)
    trained = dict(model.named_parameters())
    assert trained["mu"].shape == trained["sigma"].shape == (num_classes, 2)
    assert model.num_classes == num_classes and len(model.head.cls_score.bias) == num_classes


def test_state_dict():
    keys = {key for key in from_config(NUM_CONVS=4).state_dict() if not key.startswith("backbone.")}
    towers = [0, 1, 3, 4, 6, 7, 9, 10]
    assert keys == head_keys(towers, "obj_score") | SCALES | {"mu", "sigma"}


@pytest.mark.parametrize(
    ("tower", "moved"),
    [("cls_subnet", {"cls_logits"}), ("bbox_subnet", {"box_deltas", "obj_score"})],
)
def test_who_reads_which_tower(tower, moved):
    head = from_config().head
    features = [torch.rand(1, CHANNELS, *grid) for grid in GRIDS]
    before = head(features)
    nn.init.normal_(getattr(head, tower)[0].weight)
    after = head(features)
    changed = {
        name
        for name in before
        if all(not torch.equal(b, a) for b, a in zip(before[name], after[name], strict=True))
    }
    assert changed == moved


@pytest.mark.parametrize(
    ("method", "build"),
    [
        ("AUTO_ASSIGN", build_resnet_fpn_p3_p7),
        ("FEATURE_ALIGN", build_resnet_attention_fpn_p3_p7),
    ],
    ids=["plain", "attention"],
)
def test_p6_comes_from_p5_and_p7_from_relu_of_p6(method, build):
    """So the convolution behind P5 moves P6, and neither P3 nor P4."""
    torch.manual_seed(0)
    config = tiny_config(method)
    config.MODEL.RESNETS.update(DEPTH=18, RES2_OUT_CHANNELS=64)
    pyramid = build(config).eval()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before = pyramid(x)
        top = pyramid.top_block
        assert torch.equal(before["p6"], top.p6(before["p5"]))
        assert torch.equal(before["p7"], top.p7(before["p6"].relu()))
        assert (before["p6"] < 0).any()
        pyramid.fpn_output5.weight *= 2
        after = pyramid(x)
    moved = {name for name in LEVELS if not torch.equal(before[name], after[name])}
    assert moved == {"p5", "p6", "p7"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_experiments(folder):
    """P6 comes from the pyramid's own top level: P5; P4 in the trials that end at res4; mmdetection
    takes it from res5, and the mean with more digits.

    The number of classes is that of the data set.
    """
    config, _ = load_experiment(folder)
    method = folder.name.split(".")[0].upper()
    trial = folder.name.endswith("res18.shapes")
    mmdet = folder.name.endswith("mmdet")
    source = "res5" if mmdet else "p4" if trial else "p5"
    assert source == config.MODEL.FPN.BLOCK_IN_FEATURES
    assert len(config.MODEL.FPN.IN_FEATURES) == (2 if trial else 3)
    classes = {"shapes_train": 6, "bccd_train": 3, "coco_2017_train": 80}
    assert config.MODEL[method].NUM_CLASSES == classes[config.DATASETS.TRAIN[0]]
    assert config.MODEL[method].POINT_OFFSET == 0.0
    if not trial and "bccd" not in folder.name:
        mean = [102.9801, 115.9465, 122.7717] if mmdet else [103.53, 116.28, 123.675]
        assert mean == config.MODEL.PIXEL_MEAN
        optimizer = config.SOLVER.OPTIMIZER
        assert (optimizer.NAME, optimizer.BASE_LR, optimizer.MOMENTUM) == ("D2SGD", 0.01, 0.9)


def test_there_are_experiments():
    assert len(FOLDERS) == 18


# -- points and boxes ----------------------------------------------------------------------------


def test_points_have_no_half_stride():
    """x = u s, y = v s; a row after the other."""
    grids = from_config().priors(empty_features())
    for points, stride, (height, width) in zip(grids, STRIDES, GRIDS, strict=True):
        expected = [[u * stride, v * stride] for v in range(height) for u in range(width)]
        assert points.tolist() == expected


def test_point_offset_from_config():
    points = from_config(POINT_OFFSET=0.5).priors(empty_features())
    assert points[0][0].tolist() == [4, 4] and points[4][0].tolist() == [64, 64]


def test_decode_by_hand():
    """Stride 16: 1, 2, -3, 0.5 is 16, 32, 0 and 8 pixels from (100, 80)."""
    boxes = auto_assign().decode(torch.tensor([[1.0, 2, -3, 0.5]]), torch.tensor([[100.0, 80]]), 1)
    assert boxes.tolist() == [[84, 48, 100, 88]]


@pytest.mark.parametrize("scale", [1.0, 0.5, -1.0])
def test_first_boxes(scale):
    """Without weights the box predictor says 4: relu(scale 4) strides to every side.

    The scale multiplies before relu: with -1 boxes are points.
    """
    model = from_config()
    nn.init.zeros_(model.head.bbox_pred.weight)
    nn.init.constant_(model.head.scales[2].scale, scale)
    with torch.no_grad():
        outputs, priors = model.predict(ImageList(torch.rand(1, 3, 96, 96), [(96, 96)]))
        rows = outputs["box_deltas"][0].split([len(points) for points in priors])
        for level, (points, stride) in enumerate(zip(priors, STRIDES, strict=True)):
            reach = max(4 * (scale if level == 2 else 1.0), 0) * stride
            boxes = model.decode(rows[level], points, level)
            expected = torch.cat([points - reach, points + reach], dim=1)
            assert torch.allclose(boxes, expected), level


def test_the_loss_sees_the_same_boxes_as_evaluation():
    """Distances in pixels, points and strides of all levels: they decode to the same boxes."""
    model, predictions = auto_assign(), random_predictions(2)
    priors = model.priors(empty_features())
    inputs = model.loss_inputs(predictions, priors, [ground_truth(*FIRST), ground_truth(*SECOND)])
    counts = [h * w for h, w in GRIDS]
    strides = [s for s, count in zip(STRIDES, counts, strict=True) for _ in range(count)]
    assert inputs["strides"].tolist() == strides
    points, ltrb = inputs["points"], inputs["ltrb"]
    assert ltrb.shape == (2, LOCATIONS, 4) and (ltrb >= 0).all() and (ltrb == 0).any()
    boxes = torch.cat([points - ltrb[1, :, :2], points + ltrb[1, :, 2:]], dim=1)
    rows = predictions["box_deltas"][1].split(counts)
    decoded = [model.decode(r, p, i) for i, (r, p) in enumerate(zip(rows, priors, strict=True))]
    assert torch.equal(boxes, torch.cat(decoded))
    assert [boxes.tolist() for boxes in inputs["gt_boxes"]] == [FIRST[0], SECOND[0]]
    assert [classes.tolist() for classes in inputs["gt_classes"]] == [FIRST[1], SECOND[1]]


# -- losses --------------------------------------------------------------------------------------


def direct_losses(model: AutoAssign, predictions: dict[str, Tensor], *truths: tuple, **options):
    """auto_assign_loss, with arguments written out."""
    points = torch.cat(model.priors(empty_features()))
    strides = torch.cat(
        [torch.full((h * w,), float(s)) for (h, w), s in zip(GRIDS, STRIDES, strict=True)]
    )
    return auto_assign_loss(
        predictions["cls_logits"],
        predictions["obj_score"],
        predictions["box_deltas"].relu() * strides[:, None],
        points,
        strides,
        model.mu,
        model.sigma,
        *boxes_of(*truths),
        **options,
    )


def test_losses_are_those_of_the_loss():
    """Targets, points of all levels, prior and settings go where they belong."""
    options = {"alpha": 0.4, "gamma": 1.5, "reg_weight": 3.0}
    model, predictions = auto_assign(loss=options), random_predictions(2)
    nn.init.uniform_(model.mu, -1, 1)
    nn.init.uniform_(model.sigma, 0.5, 2)
    truths = [ground_truth(*FIRST), ground_truth(*SECOND)]
    losses = model.losses(predictions, model.priors(empty_features()), truths)
    assert losses == direct_losses(model, predictions, FIRST, SECOND, **options)
    assert losses != direct_losses(model, predictions, FIRST, SECOND)


def prior_sum(*truths: tuple) -> float:
    """N_G by plain loops: exp(-d^2 / 2) of all points strictly inside each box, mu 0, sigma 1."""
    total = 0.0
    for boxes, _ in truths:
        for x1, y1, x2, y2 in boxes:
            for (height, width), s in zip(GRIDS, STRIDES, strict=True):
                for x, y in ((u * s, v * s) for v in range(height) for u in range(width)):
                    if x1 < x < x2 and y1 < y < y2:
                        dx, dy = (x - (x1 + x2) / 2) / s, (y - (y1 + y2) / 2) / s
                        total += math.exp(-(dx**2 + dy**2) / 2)
    return total


def patched_losses(monkeypatch, truths: list[tuple], reduced) -> tuple[dict, list]:
    """Losses where all_reduce is `reduced`, and what that was called with."""
    seen = []

    def all_reduce(tensor, op="sum"):
        seen.append((tensor.detach().clone(), op))
        return reduced(tensor)

    monkeypatch.setattr(module.comm, "all_reduce", all_reduce)
    model = auto_assign()
    targets = [ground_truth(*truth) for truth in truths]
    predictions = random_predictions(len(truths))
    return model.losses(predictions, model.priors(empty_features()), targets), seen


def test_counts_are_averaged_over_ranks(monkeypatch):
    """N_gt, 5, and N_G: the mean over the ranks. Were it twice as much, two losses would halve."""
    alone, seen = patched_losses(monkeypatch, [FIRST, SECOND], lambda counts: counts)
    ((counts, op),) = seen
    assert op == "mean" and not counts.requires_grad
    assert counts.tolist() == pytest.approx([5, prior_sum(FIRST, SECOND)], rel=1e-5)
    double, _ = patched_losses(monkeypatch, [FIRST, SECOND], lambda counts: 2 * counts)
    for name, factor in (("loss_pos", 0.5), ("loss_neg", 0.5), ("loss_norm", 1.0)):
        assert double[name].item() == pytest.approx(factor * alone[name].item(), rel=1e-5), name


def test_mean_counts_are_at_least_one(monkeypatch):
    """After the averaging: a mean of a half is one, a mean of one and a half stays.

    Every rank takes part in it, also one without a box.
    """
    one = ([FIRST[0][0]], [0])
    single, _ = patched_losses(monkeypatch, [one], lambda counts: torch.ones_like(counts))
    half, _ = patched_losses(monkeypatch, [one], lambda counts: torch.full_like(counts, 0.5))
    more, _ = patched_losses(monkeypatch, [one], lambda counts: torch.full_like(counts, 1.5))
    for name in ("loss_pos", "loss_neg"):
        assert half[name].item() == pytest.approx(single[name].item())
        assert more[name].item() == pytest.approx(single[name].item() / 1.5)
    _, seen = patched_losses(monkeypatch, [NOTHING], lambda counts: counts)
    assert [counts.tolist() for counts, _ in seen] == [[0, 0]]


def test_losses_at_the_start():
    """Published at the start on COCO: 2.40 in all, positive 2.31, negative .001, norm .09.

    p = .02 * 1/2 = .01 everywhere. Positive: a quarter of -log .01 = 4.6 plus 5 (1 - GIoU), which
    is in (0, 2): between 1.15 and 3.65. Negative: each of R K = 1365 * 80 costs p^3 = 1e-6, times
    .75 / N_G. Norm: .75 / (the mean sum of G of a box); a large box holds most of a Gaussian on
    every fine level, 2 pi each.
    """
    model = from_config(NUM_CONVS=4, NUM_CLASSES=80).train()
    boxes = [[8.0, 8, 200, 180], [60, 40, 250, 250], [100, 20, 190, 120], [10, 130, 110, 240]]
    inputs = make_inputs((boxes, [0, 3, 16, 79]))
    inputs[0]["image"] = torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8)
    with torch.no_grad():
        losses = {name: loss.item() for name, loss in model(inputs).items()}
    assert 1.5 < losses["loss_pos"] < 3
    assert 1e-4 < losses["loss_neg"] < 5e-3
    assert 0.02 < losses["loss_norm"] < 0.1
    assert 1.6 < sum(losses.values()) < 3.1


def test_training_from_config_in_bfloat16():
    """One image with boxes, one without; losses in float32, a gradient for every parameter."""
    model = from_config().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(make_inputs(FIRST, NOTHING))
    assert set(losses) == LOSSES
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
    assert (model.mu.grad != 0).any() and (model.sigma.grad != 0).any()


def test_optimizer_groups():
    """Norms do not decay; biases are as weights; mu and sigma decay as weights, too."""
    model = from_config()
    config = tiny_config()
    optimizer = build_optimizer(config, model)
    assert isinstance(optimizer, torch.optim.SGD)
    of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    names = {name: of[id(p)] for name, p in model.named_parameters()}
    assert {group["lr"] for group in names.values()} == {0.01}
    assert {group["momentum"] for group in names.values()} == {0.9}
    free = {name for name, group in names.items() if group["weight_decay"] == 0}
    assert free == {f"head.{t}_subnet.1.{p}" for t in ("cls", "bbox") for p in ("weight", "bias")}
    for name in ("mu", "sigma", "head.obj_score.bias", "head.cls_subnet.0.weight"):
        assert names[name]["weight_decay"] == 1e-4


def test_config_values_reach_the_loss(monkeypatch):
    """Every key of AUTO_ASSIGN that is about the loss, each with a value of its own."""
    values = {
        "FOCAL_LOSS_ALPHA": ("alpha", 0.3),
        "FOCAL_LOSS_GAMMA": ("gamma", 1.5),
        "REG_WEIGHT": ("reg_weight", 4.0),
    }
    seen = {}

    def record(**kwargs):
        seen.update(kwargs)
        return auto_assign_loss(**kwargs)

    monkeypatch.setattr(module, "auto_assign_loss", record)
    model = from_config(**{key: value for key, (_, value) in values.items()})
    model.train()(make_inputs(FIRST))
    assert seen["mu"] is model.mu and seen["sigma"] is model.sigma
    assert {name: seen[name] for name, _ in values.values()} == dict(values.values())


def test_config_values_reach_the_detector():
    """The keys of AUTO_ASSIGN that are not about the loss, and those of others."""
    config = tiny_config(
        PRIOR_PROB=0.1,
        NUM_CONVS=3,
        NUM_CLASSES=2,
        IN_FEATURES=["p3", "p4", "p5"],
        SCORE_THRESH_TEST=0.25,
        TOPK_CANDIDATES_TEST=12,
        NMS_THRESH_TEST=0.35,
    )
    config.merge(MODEL={"NMS_TYPE": "cluster"}, TEST={"DETECTIONS_PER_IMAGE": 6})
    model = from_config(config)
    assert torch.allclose(model.head.cls_score.bias.sigmoid(), torch.tensor(0.1))
    assert len(model.head.cls_subnet) == 9 and model.num_classes == 2
    assert model.in_features == ["p3", "p4", "p5"] and len(model.head.scales) == 3
    assert model.point_generator.strides == [8, 16, 32]
    assert (model.score_threshold, model.topk_candidates) == (0.25, 12)
    assert (model.nms_threshold, model.nms_type) == (0.35, "cluster")
    assert model.max_detections_per_image == 6


def test_published_defaults():
    config = AutoAssignConfig()
    model = from_config()
    assert (model.score_threshold, model.topk_candidates) == (0.05, 1000)
    assert (model.nms_threshold, model.nms_type) == (0.6, "normal")
    assert model.max_detections_per_image == 100
    assert model.loss == {"alpha": 0.25, "gamma": 2.0, "reg_weight": 5.0}
    schedule = config.SOLVER.LR_SCHEDULER
    assert (schedule.WARMUP_METHOD, schedule.WARMUP_FACTOR, schedule.WARMUP_ITERS) == (
        "linear",
        1e-3,
        1000,
    )
    assert config.MODEL.AUTO_ASSIGN.NUM_CONVS == 4 and config.SOLVER.IMS_PER_BATCH == 16


def test_learns_a_few_boxes():
    """Twice the same way; in the end it finds what it has seen, each box best of its class."""
    inputs = make_inputs(([[8, 8, 40, 40], [50, 12, 90, 56]], [0, 1]))

    def train(steps: int) -> tuple[AutoAssign, list[float]]:
        model = from_config().train()
        return model, loss_history(model, inputs, steps, lr=3e-3)

    model, history = train(40)
    assert history[-1] < 0.35 * history[0], history
    found = model.eval()(inputs)[0]["instances"]
    truth = inputs[0]["instances"]
    for box, wanted in zip(truth.gt_boxes, truth.gt_classes, strict=True):
        of_class = found[found.pred_classes == wanted]
        assert len(of_class) > 0
        best = of_class.pred_boxes[:1]
        assert pairwise_iou(best, type(best)(box[None])).item() > 0.5
    assert train(10)[1] == history[:10]


# -- evaluation ----------------------------------------------------------------------------------


def nothing_found(images: int = 1) -> dict[str, Tensor]:
    """Certain of background everywhere; boxes of one stride around each point."""
    return {
        "cls_logits": torch.full((images, LOCATIONS, CLASSES), -50.0),
        "box_deltas": torch.full((images, LOCATIONS, 4), 0.5),
        "obj_score": torch.zeros(images, LOCATIONS, 1),
    }


@pytest.mark.parametrize(("threshold", "count"), [(0.12, 1), (0.13, 0)])
def test_score_is_the_product(threshold, count):
    """Class logit 0 and objectness logit -log 3: 1/2 * 1/4 = .125, for the threshold, too.

    Row 1, column 2 of the finest grid is the point (16, 8); one stride each way: (8, 0, 24, 16).
    """
    model = auto_assign(score_threshold=threshold)
    outputs = nothing_found()
    outputs["cls_logits"][0, 14, 2] = 0
    outputs["obj_score"][0, 14] = -math.log(3)
    outputs["box_deltas"][0, 14] = 1
    (found,) = model.inference(outputs, model.priors(empty_features()), [(96, 96)])
    assert found.scores.tolist() == pytest.approx([0.125] * count)
    assert found.pred_boxes.tensor.tolist() == [[8, 0, 24, 16]] * count
    assert found.pred_classes.tolist() == [2] * count


def test_ranking_is_by_the_product():
    """Class scores 1/2 and 1/4, objectness 1/4 and 3/4: .125 and .1875, so the second is first.

    With one candidate a level it is the only one.
    """
    model = auto_assign(score_threshold=0.1)
    outputs = nothing_found()
    outputs["cls_logits"][0, [14, 70], 0] = torch.tensor([0.0, -math.log(3)])
    outputs["obj_score"][0, [14, 70], 0] = torch.tensor([-math.log(3), math.log(3)])
    priors = model.priors(empty_features())
    (found,) = model.inference(outputs, priors, [(96, 96)])
    assert found.scores.tolist() == pytest.approx([0.1875, 0.125])
    model.topk_candidates = 1
    (found,) = model.inference(outputs, priors, [(96, 96)])
    assert found.scores.tolist() == pytest.approx([0.1875])


@pytest.mark.parametrize(("cap", "count"), [(1000, 4), (3, 3), (None, 12)])
def test_no_more_candidates_than_locations(cap, count):
    """P6 has 2 x 2 cells and 3 classes, all 12 scores above the threshold: the best 4 are kept.

    That holds per level: P7, one cell, keeps one of three more. A lower cap holds; None is none.
    """
    model = auto_assign(score_threshold=0.1)
    outputs = nothing_found()
    first = 144 + 36 + 9
    scores = torch.linspace(-1, 1, 12)[torch.randperm(12, generator=torch.Generator())]
    outputs["cls_logits"][0, first : first + 4] = scores.view(4, 3)
    outputs["cls_logits"][0, -1] = 3
    (found,) = model.candidates(outputs, model.priors(empty_features()), [(96, 96)], cap)
    expected = (scores.sigmoid() / 2).sort(descending=True).values[:count]
    assert found.scores[:count].tolist() == pytest.approx(expected.tolist())
    assert len(found) - count == {1000: 1, 3: 1, None: 3}[cap]


def test_cap_is_not_the_number_of_scores():
    """On P3, 144 locations: all three classes everywhere leave 144 of 432."""
    model = auto_assign(score_threshold=0.1)
    outputs = nothing_found()
    outputs["cls_logits"][0, :144] = 0
    (found,) = model.candidates(outputs, model.priors(empty_features()), [(96, 96)], 1000)
    assert len(found) == 144


# Places on P3 (12 columns, stride 8), and the distances l, t, r, b in strides.
BEYOND = {
    # From (0, 0): (-80, 0, 32, 32) and, from (8, 0), (0, 0, 32, 32): 1024 / 3584 = .29, so both
    # are kept; within the image they are the same box.
    "same within": ({0: [10.0, 0, 4, 4], 1: [1.0, 0, 3, 4]}, [[0, 0, 32, 32]] * 2),
    # From (0, 8): (-400, 0, 16, 16) and, from (8, 8), (-400, 0, 32, 16): 416 / 432 = .96, so the
    # second goes; within the image they share 16 / 32 only.
    "same beyond": ({12: [50.0, 1, 2, 1], 13: [51.0, 1, 3, 1]}, [[0, 0, 16, 16]]),
}


@pytest.mark.parametrize("case", BEYOND)
def test_nms_compares_boxes_beyond_the_image(case, monkeypatch):
    """And results lie within it. Scores fall along the rows of the grid."""
    rows, expected = BEYOND[case]
    model = auto_assign(score_threshold=0.1).eval()
    outputs, priors = nothing_found(), model.priors(empty_features())
    for place, ltrb in rows.items():
        outputs["cls_logits"][0, place, 1] = 1 - place / 100
        outputs["box_deltas"][0, place] = torch.tensor(ltrb)
    monkeypatch.setattr(model, "predict", lambda images: (outputs, priors))
    inputs = make_inputs(FIRST)
    found = model(inputs)[0]["instances"]
    assert found.pred_boxes.tensor.tolist() == expected
    (unclipped,) = model.inference(outputs, priors, [(64, 96)])
    assert (unclipped.pred_boxes.tensor[:, 0] < 0).any() and len(unclipped) == len(expected)
    # Had they been clipped first, the result would be another one.
    model.clip_before_nms = True
    assert len(model(inputs)[0]["instances"]) == 3 - len(expected)


def test_classes_stay_apart_beyond_the_image():
    """(-40, -40, 8, 8) of class 0 and (-49, -49, 8, 8) of class 1.

    Shifting class 1 by the largest coordinate plus one, 9, would make it (-40, -40, 17, 17), whose
    IoU with the first box is 48^2 / 57^2 = .71.
    """
    model = auto_assign(score_threshold=0.1)
    outputs, priors = nothing_found(), model.priors(empty_features())
    # Points (0, 0) and (8, 8) of P3.
    outputs["cls_logits"][0, 0, 0] = 1
    outputs["box_deltas"][0, 0] = torch.tensor([5.0, 5, 1, 1])
    outputs["cls_logits"][0, 13, 1] = 0
    outputs["box_deltas"][0, 13] = torch.tensor([57 / 8, 57 / 8, 0, 0])
    (found,) = model.inference(outputs, priors, [(96, 96)])
    assert found.pred_classes.tolist() == [0, 1]


def test_a_box_beyond_the_image_is_no_detection(monkeypatch):
    """The image is 64 x 96: what lies in the padding below it is compared, but not returned."""
    model = auto_assign(score_threshold=0.1).eval()
    outputs, priors = nothing_found(), model.priors(empty_features())
    for place in (10 * 12 + 5, 5):  # points (40, 80) and (40, 0)
        outputs["cls_logits"][0, place, 0] = 1
        outputs["box_deltas"][0, place] = 1
    monkeypatch.setattr(model, "predict", lambda images: (outputs, priors))
    found = model(make_inputs(FIRST))[0]["instances"]
    assert found.pred_boxes.tensor.tolist() == [[32, 0, 48, 8]]
    assert len(model.inference(outputs, priors, [(64, 96)])[0]) == 2


def test_top_100():
    """144 boxes that do not overlap: the best hundred, best first."""
    model = from_config(SCORE_THRESH_TEST=0.05)
    outputs = nothing_found()
    outputs["cls_logits"][0, :144, 0] = torch.linspace(-1, 1, 144)
    (found,) = model.inference(outputs, model.priors(empty_features()), [(96, 96)])
    expected = outputs["cls_logits"][0, :144, 0].sigmoid().flip(0)[:100] / 2
    assert torch.allclose(found.scores, expected)


def test_a_copy_detects_alike():
    """Averaged weights and resumed runs rely on it: nothing lies outside the state dict."""
    model = from_config(SCORE_THRESH_TEST=0.0).eval()
    other = from_config(copy.deepcopy(tiny_config(SCORE_THRESH_TEST=0.0, PRIOR_PROB=0.3))).eval()
    other.load_state_dict(model.state_dict())
    one, two = (m(make_inputs(FIRST))[0]["instances"] for m in (model, other))
    assert len(one) > 0 and torch.equal(one.scores, two.scores)
    assert torch.equal(one.pred_boxes.tensor, two.pred_boxes.tensor)
    assert F.mse_loss(other.sigma, model.sigma) == 0
