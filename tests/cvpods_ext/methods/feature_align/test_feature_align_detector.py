"""FeatureAlign as a detector: its parts on and off, its distributions, padding, checkpoints."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cvpods.checkpoint import Checkpointer
from cvpods.layers import DFConv2d, ModulatedDeformConv, OffsetConv
from cvpods.modeling.anchor_generator import PointGrid
from cvpods.modeling.backbone import FPN, build_resnet_fpn_p3_p7
from cvpods.modeling.backbone.fpn import LastLevelP6P7, build_p3_p7_pyramid
from cvpods.modeling.meta_arch import DenseHead
from cvpods.solver.optimizer import build_optimizer, parameter_groups
from cvpods.structures import ImageList
from cvpods.utils.errors import ConfigError
from cvpods_ext.configs.fragments import RES50
from cvpods_ext.methods.auto_assign import AutoAssign, AutoAssignConfig
from cvpods_ext.methods.feature_align import (
    FeatureAlign,
    FeatureAlignConfig,
    build_resnet_attention_fpn_p3_p7,
    feature_align_loss,
)
from cvpods_ext.methods.feature_align import detector as module
from cvpods_ext.methods.feature_align.attention import AttentionFPN, padding_mask
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
from tests.cvpods_ext.methods.auto_assign.test_auto_assign_detector import OUTPUTS, own_parts
from tests.cvpods_ext.methods.auto_assign.test_auto_assign_detector import (
    tiny_config as auto_assign_config,
)
from tests.cvpods_ext.methods.feature_align.test_attention import STAGES, PointwiseBackbone, pyramid

LOSSES = {"loss_pos", "loss_neg", "loss_quality"}
DEFORMABLE = {
    f"head.{tower}_subnet.0.{conv}.{part}"
    for tower in ("cls", "bbox")
    for conv in ("conv", "offset")
    for part in ("weight", "bias")
}


@functools.cache
def attention_pyramid() -> AttentionFPN:
    return pyramid(CHANNELS, dropout=0.0)


class TestFeatureAlignDetector(DenseDetectorTests):
    loss_names = LOSSES
    head_keys = head_keys([1], "obj_score") | DEFORMABLE | SCALES
    other_keys = {"mu", "sigma"}
    stub_channels = OUTPUTS

    def build(self, **arguments):
        pyramid = attention_pyramid()
        torch.manual_seed(1)  # whether or not the pyramid was already there
        return FeatureAlign(**{**own_parts(deformable=True), **arguments, "backbone": pyramid})

    @pytest.mark.parametrize("images", [1, 2])
    def test_training_without_a_box(self, images):
        """Every parameter has a gradient, mu and sigma too, as several ranks need."""
        losses = self.train(self.make(), make_inputs(*[NOTHING] * images))
        assert losses["loss_neg"] > 0 and losses["loss_pos"] == losses["loss_quality"] == 0

    @pytest.mark.parametrize(
        "box", [[10, 10, 10, 30], [10, 10, 30, 10], [16, 16, 16, 16]], ids=["x", "y", "point"]
    )
    def test_box_without_area_changes_nothing(self, box):
        """But the count of boxes, 4 instead of 3, and what a box without locations costs, 100."""
        boxes, classes = FIRST
        losses = self.train(self.make(), make_inputs(([*boxes, box], [*classes, 1])))
        plain = self.losses_of(FIRST)
        expected = {
            "loss_pos": (3 * plain["loss_pos"] + 25) / 4,
            "loss_neg": plain["loss_neg"],
            "loss_quality": 4 / 3 * plain["loss_quality"],
        }
        assert {k: v.item() for k, v in losses.items()} == pytest.approx(expected, rel=1e-4)


def feature_align(**arguments: Any) -> FeatureAlign:
    """From plain arguments, all parts on."""
    return TestFeatureAlignDetector().make(**arguments)


def tiny_config(**values: Any) -> Any:
    """As the one of AutoAssign, all parts on, with the published dropout."""
    attention = {"DROPOUT": 0.1, **values.pop("ATTENTION", {})}
    return auto_assign_config("FEATURE_ALIGN", ATTENTION=attention, **values)


def from_config(config: FeatureAlignConfig) -> FeatureAlign:
    """On a bottom-up network of three matrices."""
    torch.manual_seed(0)
    attention = config.MODEL.FEATURE_ALIGN.ATTENTION
    bottom_up = PointwiseBackbone()
    if attention.ENABLED:
        make = functools.partial(
            AttentionFPN,
            attention={
                "num_layers": attention.NUM_LAYERS,
                "num_heads": attention.NUM_HEADS,
                "feedforward_dim": attention.FEEDFORWARD_DIM,
            },
        )
        return FeatureAlign.from_config(config, build_p3_p7_pyramid(config, bottom_up, make))
    return FeatureAlign.from_config(config, build_p3_p7_pyramid(config, bottom_up))


ASSIGN_ONLY = {"USE_DCN_IN_TOWER": False, "ATTENTION": {"ENABLED": False}}
AUTO_ASSIGN = {**ASSIGN_ONLY, "MDQ": "shared", "FEATURE_FILTER": False, "QUALITY_WEIGHT": False}


# -- from the config -----------------------------------------------------------------------------


@pytest.mark.parametrize("mdq", ["learned", "fixed", "shared"])
@pytest.mark.parametrize("values", [{}, ASSIGN_ONLY], ids=["all", "assign only"])
def test_training_and_evaluation_from_config(values, mdq):
    """Images of two sizes, one without a box; every parameter has a gradient."""
    model = from_config(tiny_config(SCORE_THRESH_TEST=0.0, MDQ=mdq, **values)).train()
    losses = model(make_inputs(FIRST, NOTHING))
    assert set(losses) == LOSSES
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0 or name.startswith("head.scales"), name
    inputs = make_inputs(FIRST)
    inputs[0].update(height=128, width=192)
    found = model.eval()(inputs)[0]["instances"]
    assert found.image_size == (128, 192) and 0 < len(found) <= 100


def test_resnet_from_config():
    """ResNet-18 with the pyramid that its experiments build."""
    config = tiny_config(ATTENTION={"DIM": 16})
    config.MODEL.RESNETS.DEPTH = 18
    config.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    torch.manual_seed(0)
    model = FeatureAlign.from_config(config, build_resnet_attention_fpn_p3_p7(config)).train()
    keys = set(model.state_dict())
    expected = {"backbone.encoder.input_proj.weight", "backbone.encoder.layers.0.linear1.weight"}
    expected |= {"backbone.fpn_lateral5.weight", "backbone.top_block.p6.weight"}
    assert expected <= keys
    assert {k.split(".")[0] for k in keys} == {"backbone", "head", "mu", "sigma"}
    assert any(k.startswith("backbone.bottom_up.res5.") for k in keys)
    losses = model(make_inputs(SECOND))
    sum(losses.values()).backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None and g.isfinite().all() for g in trained.values())
    assert trained["backbone.bottom_up.res5.0.conv1.weight"].abs().sum() > 0


def test_published_defaults():
    own = FeatureAlignConfig().MODEL.FEATURE_ALIGN
    switches = (own.FEATURE_FILTER, own.QUALITY_WEIGHT, own.USE_DCN_IN_TOWER)
    assert switches == (True, True, True) and own.MDQ == "learned"
    assert own.ATTENTION == {
        "ENABLED": True,
        "DIM": None,
        "NUM_LAYERS": 3,
        "NUM_HEADS": 8,
        "FEEDFORWARD_DIM": 2048,
        "DROPOUT": 0.1,
    }
    auto_assign = AutoAssignConfig().MODEL.AUTO_ASSIGN
    assert {k: own[k] for k in auto_assign} == dict(auto_assign)
    assert set(own) - set(auto_assign) == {
        "FEATURE_FILTER",
        "QUALITY_WEIGHT",
        "MDQ",
        "USE_DCN_IN_TOWER",
        "ATTENTION",
    }
    assert FeatureAlignConfig().MODEL.FPN.BLOCK_IN_FEATURES == "p5"


def test_parameters_of_the_published_network():
    """To AutoAssign's on ResNet-50: three layers of the encoder, two convolutions of offsets

    of 256 to 27 channels, and the distributions of four more levels: 4 * 80 * 2 of mu and sigma.
    """
    counts = []
    for cls, build in (
        (AutoAssignConfig, lambda c: AutoAssign.from_config(c, build_resnet_fpn_p3_p7(c))),
        (
            FeatureAlignConfig,
            lambda c: FeatureAlign.from_config(c, build_resnet_attention_fpn_p3_p7(c)),
        ),
    ):
        config = cls()
        config.override({k: v for k, v in RES50.items() if "DEPTH" in k})
        with torch.device("meta"):
            counts.append(sum(p.numel() for p in build(config).parameters()))
    offsets = 2 * (256 * 9 * 27 + 27)
    assert offsets == 124_470
    assert counts[1] - counts[0] == 3 * 25_186_304 + offsets + 4 * 80 * 2 * 2


def test_config_values_reach_the_loss(monkeypatch):
    values = {
        "FOCAL_LOSS_ALPHA": ("alpha", 0.3),
        "FOCAL_LOSS_GAMMA": ("gamma", 1.5),
        "REG_WEIGHT": ("reg_weight", 4.0),
        "FEATURE_FILTER": ("feature_filter", False),
        "QUALITY_WEIGHT": ("quality_weight", False),
    }
    seen = []

    def record(**kwargs):
        seen.append(kwargs)
        return feature_align_loss(**kwargs)

    monkeypatch.setattr(module, "feature_align_loss", record)
    defaults = {"alpha": 0.25, "gamma": 2.0, "reg_weight": 5.0}
    defaults |= {"feature_filter": True, "quality_weight": True}
    for key, (name, value) in values.items():
        from_config(tiny_config(**{key: value})).train()(make_inputs(FIRST))
        given = seen.pop()
        assert {k: given[k] for k in defaults} == {**defaults, name: value}
    assert given["level_sizes"] == [96, 24, 6, 2, 1]  # of 64 x 96 pixels


def test_config_values_reach_the_detector():
    config = tiny_config(
        PRIOR_PROB=0.1,
        NUM_CONVS=2,
        NUM_CLASSES=2,
        IN_FEATURES=["p3", "p4", "p5"],
        POINT_OFFSET=0.5,
        SCORE_THRESH_TEST=0.25,
        TOPK_CANDIDATES_TEST=12,
        NMS_THRESH_TEST=0.35,
        MDQ="fixed",
    )
    config.merge(MODEL={"NMS_TYPE": "cluster"}, TEST={"DETECTIONS_PER_IMAGE": 6})
    model = from_config(config)
    assert torch.allclose(model.head.cls_score.bias.sigmoid(), torch.tensor(0.1))
    assert len(model.head.cls_subnet) == 3 * 2 and model.num_classes == 2
    assert model.in_features == ["p3", "p4", "p5"] and len(model.head.scales) == 3
    assert model.mu.shape == model.sigma.shape == (3, 2, 2) and model.mdq == "fixed"
    assert model.point_generator.strides == [8, 16, 32]
    assert model.priors([torch.zeros(1, 1, 1, 1)] * 3)[1].tolist() == [[8, 8]]
    assert (model.score_threshold, model.topk_candidates) == (0.25, 12)
    assert (model.nms_threshold, model.nms_type) == (0.35, "cluster")
    assert model.max_detections_per_image == 6


def test_training_lowers_the_loss():
    model = from_config(tiny_config()).train()
    history = loss_history(model, make_inputs(FIRST, SECOND), steps=8, lr=3e-3)
    assert history[-1] < 0.85 * history[0], history


# -- the network ---------------------------------------------------------------------------------


def test_last_convolution_of_both_towers_is_deformable():
    """GN and ReLU follow it, as every other."""
    model = from_config(tiny_config(NUM_CONVS=4))
    for tower in (model.head.cls_subnet, model.head.bbox_subnet):
        kinds = [type(layer) for layer in tower]
        assert kinds == [nn.Conv2d, nn.GroupNorm, nn.ReLU] * 3 + [
            DFConv2d,
            nn.GroupNorm,
            nn.ReLU,
        ]
        last = tower[9]
        assert isinstance(last.conv, ModulatedDeformConv) and isinstance(last.offset, OffsetConv)
        assert last.conv.weight.shape == (CHANNELS, CHANNELS, 3, 3)
        assert last.offset.weight.shape == (27, CHANNELS, 3, 3)


def test_objectness_is_on_the_box_tower():
    model = from_config(tiny_config())
    nn.init.zeros_(model.head.cls_subnet[1].weight)
    outputs = model.head([torch.rand(1, CHANNELS, 4, 4)] * 5)
    assert outputs["cls_logits"][0].std() == 0 < outputs["obj_score"][0].std()


def test_initial_values():
    """N(0, .01) everywhere but the deformable weights: U(-1, 1) / sqrt(9 * 64) = 1 / 24.

    So offsets start small, but not as 0, and masks near 1/2. Class bias -log 49, box bias 4.
    """
    model = from_config(tiny_config(NUM_CONVS=2))
    for name, layer in model.head.named_modules():
        if isinstance(layer, ModulatedDeformConv):
            assert 0.95 / 24 < layer.weight.abs().max() <= 1 / 24
            assert layer.weight.std().item() == pytest.approx(1 / 24 / math.sqrt(3), rel=0.05)
        elif isinstance(layer, nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1), name
        else:
            continue
        if name not in ("cls_score", "bbox_pred"):
            assert (layer.bias == 0).all(), name
    assert torch.allclose(model.head.cls_score.bias, torch.tensor(-math.log(49)))
    assert (model.head.bbox_pred.bias == 4).all()
    assert all(scale.scale.item() == 1 for scale in model.head.scales)
    deformable = model.head.cls_subnet[3]
    offset, mask = deformable.offset(torch.randn(1, CHANNELS, 4, 4))
    assert 0 < offset.abs().max() < 1.5 and (mask - 0.5).abs().max() < 0.25


def test_assign_only_is_auto_assigns_network():
    """No encoder, no deformable convolution: AutoAssign's names, and one distribution a level."""
    model = from_config(tiny_config(**ASSIGN_ONLY))
    assert type(model.backbone) is FPN
    assert not any(isinstance(m, DFConv2d | nn.MultiheadAttention) for m in model.modules())
    config = auto_assign_config()
    fpn = build_p3_p7_pyramid(config, PointwiseBackbone())
    state, expected = model.state_dict(), AutoAssign.from_config(config, fpn).state_dict()
    assert {k: v.shape for k, v in state.items() if k not in ("mu", "sigma")} == {
        k: v.shape for k, v in expected.items() if k not in ("mu", "sigma")
    }
    assert state["mu"].shape == (5, *expected["mu"].shape)


def test_without_its_parts_it_is_auto_assign():
    """The same weights: the same losses and detections."""
    model = from_config(tiny_config(SCORE_THRESH_TEST=0.0, **AUTO_ASSIGN))
    config = auto_assign_config(SCORE_THRESH_TEST=0.0)
    other = AutoAssign.from_config(config, build_p3_p7_pyramid(config, PointwiseBackbone()))
    other.load_state_dict(model.state_dict())
    inputs = make_inputs(FIRST, SECOND)
    losses, expected = ({k: v.item() for k, v in m.train()(inputs).items()} for m in (model, other))
    expected["loss_quality"] = expected.pop("loss_norm")
    assert losses == pytest.approx(expected, rel=1e-6)
    for found, wanted in zip(model.eval()(inputs), other.eval()(inputs), strict=True):
        torch.testing.assert_close(found["instances"].scores, wanted["instances"].scores)


@pytest.mark.parametrize("part", ["encoder", "towers"])
def test_each_part_of_the_network_has_a_switch(part):
    if part == "encoder":
        model = from_config(tiny_config(USE_DCN_IN_TOWER=False))
    else:
        model = from_config(tiny_config(ATTENTION={"ENABLED": False}))
    assert isinstance(model.backbone, AttentionFPN) is (part == "encoder")
    assert any(isinstance(m, DFConv2d) for m in model.modules()) is (part == "towers")


# -- the quality distributions -------------------------------------------------------------------

SHAPES = {"learned": (5, CLASSES, 2), "fixed": (5, CLASSES, 2), "shared": (CLASSES, 2)}


@pytest.mark.parametrize("mdq", SHAPES)
def test_where_the_distributions_are(mdq):
    """Parameters, saved, unless they are fixed; 0 and 1 at first."""
    model = feature_align(mdq=mdq)
    parameters, state = dict(model.named_parameters()), model.state_dict()
    for name, value in (("mu", 0), ("sigma", 1)):
        tensor = getattr(model, name)
        assert tensor.shape == SHAPES[mdq] and (tensor == value).all()
        assert (name in parameters) is (name in state) is (mdq != "fixed")
        assert tensor.requires_grad is (mdq != "fixed")
        # It follows the model, wherever it goes.
        assert getattr(copy.deepcopy(model).double(), name).dtype == torch.float64
    assert feature_align().mdq == "learned"


@pytest.mark.parametrize("mdq", SHAPES)
def test_what_an_optimiser_gets(mdq):
    """They decay as other weights; norms, the encoder's too, do not."""
    model = feature_align(mdq=mdq)
    settings = {"base_lr": 0.01, "weight_decay": 1e-4, "weight_decay_norm": 0.0}
    decay = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, **settings)
        for parameter in group["params"]
    }
    for tensor in (model.mu, model.sigma):
        assert decay.get(id(tensor)) == (None if mdq == "fixed" else (0.01, 1e-4))
    layer = model.backbone.encoder.layers[0]
    assert decay[id(layer.norm1.weight)] == decay[id(layer.norm2.bias)] == (0.01, 0.0)
    assert decay[id(layer.linear1.weight)] == (0.01, 1e-4)
    assert decay[id(layer.self_attn.in_proj_weight)] == (0.01, 1e-4)
    assert decay[id(model.head.cls_subnet[1].weight)] == (0.01, 0.0)


@pytest.mark.parametrize("mdq", SHAPES)
def test_a_step_moves_what_is_learned(mdq):
    """SGD as published: lr .01, momentum .9, decay 1e-4; FIRST has a box of each class.

    P7 has a single point, (0, 0), outside of all boxes: the distributions of that level only decay.
    """
    config = tiny_config(MDQ=mdq)
    model = from_config(config)
    losses = model.train()(make_inputs(FIRST))
    optimizer = build_optimizer(config, model)
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"] == 0.9
    sum(losses.values()).backward()
    optimizer.step()
    if mdq == "fixed":
        assert (model.mu == 0).all() and (model.sigma == 1).all()
        return
    moved = model.mu.abs().amax(dim=-1)
    if mdq == "shared":
        assert (moved > 0).all() and (model.sigma != 1).all()
    else:
        assert (moved[0] > 0).all() and (moved[4] == 0).all()
        assert torch.allclose(model.sigma[4], torch.tensor(1 - 0.01 * 1e-4), rtol=0, atol=1e-7)
        assert not torch.equal(model.mu[0], model.mu[1])


def test_losses_of_the_three_start_the_same():
    inputs = make_inputs(FIRST, SECOND)
    learned, fixed, shared = (
        {k: v.item() for k, v in feature_align(mdq=mdq).train()(inputs).items()} for mdq in SHAPES
    )
    assert learned == fixed == shared


@pytest.mark.parametrize("mdq", ["Learned", "", None])
def test_unknown_mdq(mdq):
    with pytest.raises(ConfigError, match="MODEL.FEATURE_ALIGN.MDQ must be one of") as error:
        feature_align(mdq=mdq)
    assert all(repr(name) in str(error.value) for name in (*SHAPES, mdq))
    with pytest.raises(ConfigError, match="MODEL.FEATURE_ALIGN.MDQ"):
        from_config(tiny_config(MDQ="free"))


@pytest.mark.parametrize("mdq", SHAPES)
def test_losses_are_those_of_the_loss(mdq):
    """Targets, points, strides and level sizes, distributions and settings go where they belong."""
    model = feature_align(mdq=mdq, loss={"alpha": 0.4, "gamma": 1.5, "feature_filter": False})
    nn.init.normal_(model.mu, std=0.5)
    nn.init.uniform_(model.sigma, 0.5, 2)
    priors = model.priors(empty_features())
    random = torch.Generator().manual_seed(0)
    predictions = {
        name: torch.randn(2, LOCATIONS, channels, generator=random)
        for name, channels in OUTPUTS.items()
    }
    losses = model.losses(predictions, priors, [ground_truth(*FIRST), ground_truth(*SECOND)])
    sizes = [height * width for height, width in GRIDS]
    strides = torch.cat([torch.full((n,), float(s)) for n, s in zip(sizes, STRIDES, strict=True)])
    mu, sigma = model.mu, model.sigma
    if mdq == "shared":
        mu, sigma = (torch.stack([t] * 5) for t in (mu, sigma))
    expected = feature_align_loss(
        predictions["cls_logits"],
        predictions["obj_score"],
        predictions["box_deltas"].clamp(min=0) * strides[:, None],
        torch.cat(priors),
        strides,
        sizes,
        mu,
        sigma,
        [torch.tensor(boxes).float() for boxes, _ in (FIRST, SECOND)],
        [torch.tensor(classes) for _, classes in (FIRST, SECOND)],
        alpha=0.4,
        gamma=1.5,
        feature_filter=False,
    )
    assert losses == expected


# -- padding -------------------------------------------------------------------------------------


def keep_centres(network: nn.Module) -> None:
    """Convolutions see their own cell alone; deformable ones move nowhere."""
    for conv in network.modules():
        if isinstance(conv, nn.Conv2d | ModulatedDeformConv) and conv.kernel_size == (3, 3):
            centre = conv.weight[..., 1:2, 1:2].clone()
            conv.weight.zero_()
            conv.weight[..., 1:2, 1:2] = centre
        if isinstance(conv, OffsetConv):
            conv.weight[: conv.num_offsets] = 0


@torch.no_grad()
def detector_without_neighbours(attention: bool = True) -> FeatureAlign:
    """One in which nothing but attention tells a cell of others; black images stay black.

    In the padding all distances are 0, so boxes are empty and dropped; all others are kept. Of one
    class there are never more candidates than locations, and NMS at 1 drops none.
    """
    torch.manual_seed(3)
    bottom_up = PointwiseBackbone()
    plain = FPN(bottom_up, list(STAGES), 8, top_block=LastLevelP6P7(8, 8, "p5"))
    model = FeatureAlign(
        backbone=pyramid(8, bottom_up) if attention else plain,
        head=DenseHead(
            in_channels=8,
            num_convs=2,
            num_classes=1,
            prior_prob=0.5,
            quality="obj_score",
            num_scales=5,
            deformable=True,
        ),
        point_generator=PointGrid(strides=STRIDES),
        in_features=LEVELS,
        num_classes=1,
        pixel_mean=(100.0, 110.0, 120.0),
        pixel_std=(58.0, 57.0, 59.0),
        score_threshold=0.0,
        nms_threshold=1.0,
        max_detections=1000,
    )
    for conv in model.head.modules():
        if isinstance(conv, nn.Conv2d | ModulatedDeformConv):
            nn.init.normal_(conv.weight, std=1.0)
    keep_centres(model)
    return model.eval()


def image_of(height: int, width: int, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)
    # Large patches of one colour, so that cells differ.
    patches = torch.randint(0, 256, (3, 12, 12), generator=random, dtype=torch.uint8)
    patches = patches.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, :height, :width]
    return {"image": image // 2 + patches // 2}


def found_in(model: FeatureAlign, *inputs: dict[str, Tensor]) -> Tensor:
    """(J, 5) boxes and scores (in 1e-2) of the first image."""
    found = model(inputs)[0]["instances"]
    return torch.cat([found.pred_boxes.tensor, 100 * found.scores[:, None]], dim=1)


def same_detections(one: Tensor, other: Tensor) -> bool:
    """As many, and each of them somewhere in the other, within 1e-3 pixels and 1e-5 of score."""
    if len(one) != len(other):
        return False
    if len(one) == 0:
        return True
    distance = (one[:, None] - other).abs().amax(dim=2)
    return distance.amin(dim=1).max() < 1e-3 and distance.amin(dim=0).max() < 1e-3


@pytest.mark.parametrize("size", [(64, 96), (70, 60), (33, 128)], ids=str)
@pytest.mark.parametrize("others", [[(160, 192)], [(96, 64), (65, 200)]], ids=str)
def test_padded_pixels_change_nothing(size, others):
    """An image alone, and in a batch with larger ones."""
    model = detector_without_neighbours()
    image = image_of(*size, seed=0)
    batch = [image, *(image_of(*other, seed=1 + i) for i, other in enumerate(others))]
    alone, together = found_in(model, image), found_in(model, *batch)
    assert len(alone) > 30 and alone[:, 4].std() > 1
    assert same_detections(alone, together)


def test_padded_pixels_matter_to_attention_without_a_mask(monkeypatch):
    """The test above would notice."""
    model = detector_without_neighbours()
    batch = [image_of(70, 60, seed=0), image_of(160, 192, seed=1)]
    alone = found_in(model, batch[0])
    monkeypatch.setattr(model.backbone, "maps_of", functools.partial(FPN.maps_of, model.backbone))
    assert not same_detections(alone, found_in(model, *batch))


def test_without_attention_there_is_nothing_to_mask():
    model = detector_without_neighbours(attention=False)
    batch = [image_of(70, 60, seed=0), image_of(160, 192, seed=1)]
    assert same_detections(found_in(model, batch[0]), found_in(model, *batch))


@pytest.mark.parametrize(
    ("sizes", "padded"),
    [
        ([(64, 96)], False),
        ([(64, 96), (64, 96)], False),
        ([(64, 90)], True),
        ([(60, 96)], True),
        ([(64, 96), (64, 64)], True),
        ([(32, 96), (64, 96)], True),
    ],
)
def test_mask_is_given_where_there_is_padding(sizes, padded, monkeypatch):
    model = feature_align().eval()
    seen = []
    monkeypatch.setattr(model.backbone, "forward", lambda *args: seen.append(args))
    images = ImageList.from_tensors([torch.rand(3, *size) for size in sizes], 32)
    model.backbone.maps_of(images)
    ((tensor, mask),) = seen
    assert tensor is images.tensor
    if padded:
        assert torch.equal(mask, padding_mask(images)) and mask.any()
    else:
        assert mask is None


# -- checkpoints ---------------------------------------------------------------------------------


@torch.no_grad()
def shaken(model: nn.Module, seed: int) -> nn.Module:
    """With parameters a little away from where they start."""
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.1 * torch.rand(parameter.shape, generator=random)
    return model


@pytest.mark.parametrize("mdq", SHAPES)
def test_checkpoint_round_trip(mdq, tmp_path):
    model = shaken(from_config(tiny_config(MDQ=mdq, SCORE_THRESH_TEST=0.0)), 0).eval()
    other = shaken(from_config(tiny_config(MDQ=mdq, SCORE_THRESH_TEST=0.0)), 1).eval()
    inputs = make_inputs(FIRST, SECOND)

    def scores(of: FeatureAlign) -> list[Tensor]:
        return [result["instances"].scores for result in of(inputs)]

    assert not torch.equal(scores(model)[0], scores(other)[0])
    Checkpointer(model, tmp_path).save("model_final")
    Checkpointer(other, tmp_path).load(tmp_path / "model_final.pth", strict=True)
    assert torch.equal(model.mu, other.mu) and torch.equal(model.sigma, other.sigma)
    assert all(torch.equal(a, b) for a, b in zip(scores(model), scores(other), strict=True))


def test_fixed_distributions_stay_fixed_whatever_is_loaded(tmp_path):
    learned = shaken(from_config(tiny_config()), 0)
    Checkpointer(learned, tmp_path).save("model_final")
    fixed = from_config(tiny_config(MDQ="fixed"))
    Checkpointer(fixed, tmp_path).load(tmp_path / "model_final.pth")
    assert (fixed.mu == 0).all() and (fixed.sigma == 1).all()
    assert torch.equal(fixed.head.cls_score.weight, learned.head.cls_score.weight)
