"""FreeAnchor as a detector: what all dense detectors promise, its config, its rounded anchors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cvpods.modeling.anchor_generator import AnchorGrid, make_rounded_cell_anchors
from cvpods.modeling.backbone import build_resnet_fpn_p3_p7
from cvpods.modeling.meta_arch import DenseHead
from cvpods_ext.methods.free_anchor import FreeAnchor, FreeAnchorConfig, free_anchor_loss
from cvpods_ext.methods.free_anchor import detector as module
from tests.cvpods.modeling.test_dense_detectors import (
    CHANNELS,
    CLASSES,
    FIRST,
    GRIDS,
    LEVELS,
    LOCATIONS,
    NOTHING,
    SECOND,
    STRIDES,
    DenseDetectorTests,
    head_keys,
    loss_history,
    make_inputs,
)

CELL_ANCHORS = {f"anchor_generator.cell_anchors.{i}" for i in range(5)}


def tiny_config(**free_anchor: Any) -> FreeAnchorConfig:
    """ResNet-18, 64 channels, one convolution in each tower, random weights."""
    config = FreeAnchorConfig()
    config.MODEL.WEIGHTS = ""
    config.MODEL.DEVICE = "cpu"
    config.MODEL.RESNETS.DEPTH = 18
    config.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    config.MODEL.RESNETS.STRIDE_IN_1X1 = False
    config.MODEL.FPN.OUT_CHANNELS = CHANNELS
    config.merge(
        MODEL={"FREE_ANCHOR": {"NUM_CLASSES": CLASSES, "NUM_CONVS": 1, **free_anchor}},
    )
    return config


def build(config: FreeAnchorConfig) -> FreeAnchor:
    torch.manual_seed(0)
    return FreeAnchor.from_config(config, backbone=build_resnet_fpn_p3_p7(config))


class TestFreeAnchorDetector(DenseDetectorTests):
    loss_names = {"loss_pos", "loss_neg"}
    head_keys = head_keys([0])
    other_keys = CELL_ANCHORS
    stub_channels = {"cls_logits": 2 * CLASSES, "box_deltas": 2 * 4}

    def build(self, **arguments):
        head = DenseHead(in_channels=CHANNELS, num_convs=1, num_classes=CLASSES, num_anchors=2)
        sizes = [[2 * stride, 4 * stride] for stride in STRIDES]
        anchors = AnchorGrid(sizes=sizes, aspect_ratios=[[1.0]], strides=STRIDES)
        return FreeAnchor(**{"head": head, "anchor_generator": anchors, **arguments})

    @pytest.mark.parametrize("images", [1, 2])
    def test_training_without_a_box(self, images):
        losses = self.train(self.make(), make_inputs(*[NOTHING] * images))
        assert losses["loss_neg"] > 0 and losses["loss_pos"] == 0

    def test_losses_are_those_of_the_loss(self):
        """Targets, anchors of all levels and settings go where they belong."""
        model = self.make(loss={"bag_size": 7, "last_write": True}, bbox_reg_weights=(1, 2, 3, 4))
        inputs = make_inputs(FIRST, SECOND)
        priors = model.priors([torch.zeros(2, CHANNELS, *grid) for grid in GRIDS])
        predictions = {
            name: torch.randn(2, 2 * LOCATIONS, channels)
            for name, channels in {"cls_logits": CLASSES, "box_deltas": 4}.items()
        }
        truths = [given["instances"] for given in inputs]
        losses = model.losses(predictions, priors, truths)
        assert losses == free_anchor_loss(
            *predictions.values(),
            torch.cat(priors),
            [torch.tensor(boxes).float() for boxes, _ in (FIRST, SECOND)],
            [torch.tensor(classes) for _, classes in (FIRST, SECOND)],
            bag_size=7,
            last_write=True,
            bbox_reg_weights=(1, 2, 3, 4),
        )

    def test_decode_by_hand(self):
        """Anchor (0, 0, 16, 16), weights (10, 10, 5, 5): dx = 5 shifts by half the width, 8."""
        boxes = self.make().decode(
            torch.tensor([[5.0, 0, 0, 0]]), torch.tensor([[0.0, 0, 16, 16]]), 0
        )
        assert boxes.tolist() == [[8, 0, 24, 16]]


# -- from the config -----------------------------------------------------------------------------


def test_training_and_evaluation_from_config():
    """One image with boxes, one without; every parameter that trains has a gradient."""
    config = tiny_config(SCORE_THRESH_TEST=0.0)
    model = build(config).train()
    losses = model(make_inputs(FIRST, NOTHING))
    assert set(losses) == {"loss_pos", "loss_neg"}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None and g.isfinite().all() for g in trained.values())
    assert all(g.abs().sum() > 0 for n, g in trained.items() if n.startswith("head."))
    assert any(n.startswith("backbone.bottom_up.") for n in trained)
    inputs = make_inputs(FIRST)
    inputs[0].update(height=128, width=192)
    found = model.eval()(inputs)[0]["instances"]
    assert found.image_size == (128, 192) and 0 < len(found) <= 100


def test_bfloat16_from_config():
    model = build(tiny_config()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(make_inputs(FIRST, NOTHING))
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_network_is_retinanets():
    """cvpods' names, 9 anchors at a location, no norm in the head, prior probability .02."""
    model = build(tiny_config(NUM_CONVS=2))
    state = model.state_dict()
    assert {k for k in state if not k.startswith("backbone.")} == head_keys([0, 2]) | CELL_ANCHORS
    assert state["head.cls_score.weight"].shape == (9 * CLASSES, CHANNELS, 3, 3)
    assert state["head.bbox_pred.weight"].shape == (9 * 4, CHANNELS, 3, 3)
    assert {type(m) for m in model.head.modules() if not list(m.children())} == {nn.Conv2d, nn.ReLU}
    assert torch.allclose(state["head.cls_score.bias"].sigmoid(), torch.tensor(0.02))
    assert (state["head.bbox_pred.bias"] == 0).all()
    pyramid = {k.split(".")[1] for k in state if k.startswith("backbone.") and "bottom" not in k}
    expected = {f"fpn_{part}{level}" for part in ("lateral", "output") for level in (3, 4, 5)}
    assert pyramid == expected | {"top_block"}
    # P6 from P5, not from res5 and its 512 channels.
    assert state["backbone.top_block.p6.weight"].shape == (CHANNELS, CHANNELS, 3, 3)
    assert model.in_features == LEVELS


def test_published_defaults():
    config = FreeAnchorConfig().MODEL
    own = config.FREE_ANCHOR
    bags = (own.POS_ANCHOR_TOPK, own.BBOX_THRESHOLD, own.LAST_WRITE)
    assert bags == (50, 0.6, False)
    assert (own.FOCAL_LOSS_ALPHA, own.FOCAL_LOSS_GAMMA, own.PRIOR_PROB) == (0.5, 2.0, 0.02)
    assert (own.REG_WEIGHT, own.SMOOTH_L1_LOSS_BETA) == (0.75, 0.11)
    assert tuple(own.BBOX_REG_WEIGHTS) == (10, 10, 5, 5) and (own.NUM_CONVS, own.NORM) == (4, "")
    assert (own.SCORE_THRESH_TEST, own.NMS_THRESH_TEST, own.TOPK_CANDIDATES_TEST) == (
        0.05,
        0.5,
        1000,
    )
    assert (config.ANCHOR_GENERATOR.ROUNDED, config.ANCHOR_GENERATOR.OFFSET) == (True, 0.5)


def test_config_values_reach_the_loss(monkeypatch):
    """Every key of FREE_ANCHOR that is about the loss, each with a value of its own."""
    values = {
        "POS_ANCHOR_TOPK": ("bag_size", 11),
        "BBOX_THRESHOLD": ("iou_threshold", 0.55),
        "FOCAL_LOSS_ALPHA": ("alpha", 0.3),
        "FOCAL_LOSS_GAMMA": ("gamma", 1.5),
        "REG_WEIGHT": ("reg_weight", 0.8),
        "SMOOTH_L1_LOSS_BETA": ("beta", 0.2),
        "LAST_WRITE": ("last_write", True),
        "BBOX_REG_WEIGHTS": ("bbox_reg_weights", (1.0, 2.0, 3.0, 4.0)),
    }
    seen = {}

    def record(*args, **kwargs):
        seen.update(kwargs)
        return free_anchor_loss(*args, **kwargs)

    monkeypatch.setattr(module, "free_anchor_loss", record)
    model = build(tiny_config(**{key: value for key, (_, value) in values.items()}))
    model.train()(make_inputs(FIRST))
    assert seen == dict(values.values())
    assert model.box2box_transform.weights == (1, 2, 3, 4)


def test_config_values_reach_the_detector():
    """The keys of FREE_ANCHOR that are not about the loss, and those of others."""
    config = tiny_config(
        PRIOR_PROB=0.1,
        NUM_CONVS=3,
        NUM_CLASSES=2,
        IN_FEATURES=["p3", "p4", "p5"],
        SCORE_THRESH_TEST=0.25,
        TOPK_CANDIDATES_TEST=12,
        NMS_THRESH_TEST=0.35,
    )
    config.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64]]
    config.merge(MODEL={"NMS_TYPE": "cluster"}, TEST={"DETECTIONS_PER_IMAGE": 6})
    model = build(config)
    assert torch.allclose(model.head.cls_score.bias.sigmoid(), torch.tensor(0.1))
    assert len(model.head.cls_subnet) == len(model.head.bbox_subnet) == 2 * 3
    assert model.head.cls_score.out_channels == 3 * 2 and model.num_classes == 2
    assert model.in_features == ["p3", "p4", "p5"]
    assert model.anchor_generator.strides == [8, 16, 32]
    assert (model.score_threshold, model.topk_candidates) == (0.25, 12)
    assert (model.nms_threshold, model.nms_type) == (0.35, "cluster")
    assert model.max_detections_per_image == 6
    normed = build(tiny_config(NORM="GN"))
    assert isinstance(normed.head.cls_subnet[1], nn.GroupNorm)
    assert isinstance(normed.head.bbox_subnet[1], nn.GroupNorm)


def test_training_lowers_the_loss():
    model = build(tiny_config()).train()
    history = loss_history(model, make_inputs(FIRST, SECOND), steps=6, lr=1e-3)
    assert history[-1] < 0.5 * history[0], history


# -- anchors -------------------------------------------------------------------------------------


def test_rounded_cell_anchors_by_hand():
    """Stride 8, size 32; the window of area 64 is rounded, then scaled by 32 / 8 = 4.

    Ratio 0.5: width sqrt(128) = 11.3 -> 11, height 11 * .5 = 5.5 -> 6 (to even): 44 x 24.
    Ratio 1: 8 x 8: 32 x 32. Ratio 2: width sqrt(32) = 5.7 -> 6, height 12: 24 x 48.
    """
    expected = [[-22, -12, 22, 12], [-16, -16, 16, 16], [-12, -24, 12, 24]]
    assert make_rounded_cell_anchors([32], [0.5, 1.0, 2.0], 8).tolist() == expected
    twice = make_rounded_cell_anchors([32, 64], [0.5, 1.0, 2.0], 8)
    assert twice.tolist() == expected + [[2 * v for v in row] for row in expected]


def test_half_a_pixel_is_rounded_to_even():
    """Ratio 0.5. Stride 16: width sqrt(512) = 22.63 -> 23, height 11.5 -> 12.

    Stride 32: width 45.25 -> 45, height 22.5 -> 22. Stride 64: width 90.51 -> 91, 45.5 -> 46.
    """
    sides = {16: (23, 12), 32: (45, 22), 64: (91, 46)}
    for stride, (width, height) in sides.items():
        ((x1, y1, x2, y2),) = make_rounded_cell_anchors([stride], [0.5], stride).tolist()
        assert (x2 - x1, y2 - y1) == (width, height)
        assert (x1, y1) == (-x2, -y2)


def test_rounded_anchor_grid():
    """Each level rounds in its own stride; the first centre is half a stride in."""
    settings = {"sizes": [[32], [64]], "aspect_ratios": [[0.5]], "strides": [8, 16]}
    features = [torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 1)]
    fine, coarse = AnchorGrid(**settings, offset=0.5, rounded=True)(features)
    assert fine.tolist() == [[4 - 22, 4 - 12, 4 + 22, 4 + 12], [12 - 22, 4 - 12, 12 + 22, 4 + 12]]
    # 23 x 12 times 4.
    assert coarse.tolist() == [[8 - 46, 8 - 24, 8 + 46, 8 + 24]]
    exact = AnchorGrid(**settings, offset=0.5)(features)[0]
    width, height = (exact[0, 2:] - exact[0, :2]).tolist()
    assert (width, height) == pytest.approx((2**0.5 * 32, 2**-0.5 * 32))


def test_anchors_from_config():
    """Sizes {32, ..., 512} x 2^{0, 1/3, 2/3}, each in ratios .5, 1, 2; mid-cell and rounded."""
    model = build(tiny_config())
    generator = model.anchor_generator
    assert generator.num_cell_anchors == [9] * 5 and generator.strides == STRIDES
    for level, stride in enumerate(STRIDES):
        sizes = [4 * stride * 2 ** (octave / 3) for octave in range(3)]
        expected = make_rounded_cell_anchors(sizes, [0.5, 1.0, 2.0], stride)
        assert torch.equal(generator.cell_anchors[level], expected)
    priors = model.priors([torch.zeros(1, CHANNELS, *grid) for grid in GRIDS])
    assert sum(len(level) for level in priors) == 9 * LOCATIONS
    centers = (priors[0][:, :2] + priors[0][:, 2:]) / 2
    assert torch.allclose(centers[:9], torch.tensor(4.0))
    assert torch.allclose(centers[9:18], torch.tensor([12.0, 4.0]))
