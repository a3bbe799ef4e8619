"""torchvision's weights in this project's ResNets, and the norms that mmdetection's recipes use."""

from __future__ import annotations

import functools

import pytest
import torch
import torchvision
from torch import nn

from cvpods.checkpoint import Checkpointer, load_file, load_weights
from cvpods.checkpoint.catalog import CATALOG, PublishedWeights
from cvpods.checkpoint.torchvision_names import rename_torchvision
from cvpods.configs import RetinaNetConfig
from cvpods.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from cvpods.layers.batch_norm import EvalBatchNorm2d
from cvpods.modeling.backbone import build_resnet_backbone, build_retinanet_resnet_fpn_backbone
from cvpods.modeling.backbone.fpn import LastLevelP6P7

RGB = ShapeSpec(channels=3)
# torchvision's name -> depth, channels of res2, groups, width of a group
ARCHITECTURES = {
    "resnet18": (18, 64, 1, 64),
    "resnet50": (50, 256, 1, 64),
    "resnext50_32x4d": (50, 256, 32, 4),
}


@functools.cache
def theirs(name):
    """Return torchvision's model with random weights and batch-norm statistics."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def config_of(name, norm, freeze_at=2):
    depth, channels, groups, width = ARCHITECTURES[name]
    config = RetinaNetConfig()
    config.merge(
        MODEL={
            "BACKBONE": {"FREEZE_AT": freeze_at},
            "RESNETS": {
                "DEPTH": depth,
                "RES2_OUT_CHANNELS": channels,
                "NUM_GROUPS": groups,
                "WIDTH_PER_GROUP": width,
                "STRIDE_IN_1X1": False,
                "NORM": norm,
                "OUT_FEATURES": ["res3", "res4", "res5"],
            },
            "FPN": {"OUT_CHANNELS": 8},
        }
    )
    return config


def features(model, image):
    """Return C3, C4 and C5 of torchvision's model."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(image))))
    outputs = []
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        outputs.append(x := layer(x))
    return outputs[1:]


def save(folder, content, name="x.pth"):
    torch.save(content, folder / name)
    return folder / name


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["FrozenBN", "EvalBN"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_same_features(name, norm):
    """In float64. The file has every tensor of the backbone; only the classifier is unused.

    The report does not name the counters of batches, which FrozenBN does not have.
    """
    backbone = build_resnet_backbone(config_of(name, norm, freeze_at=0), RGB)
    weights = rename_torchvision(theirs(name).state_dict())
    report = load_weights(backbone, weights, strict=True)
    assert report.unused == ["fc.weight", "fc.bias"] and report.prefix == ""
    torch.manual_seed(1)
    image = torch.randn(1, 3, 65, 71, dtype=torch.float64)
    with torch.no_grad():
        found = backbone.double().eval()(image)
        expected = features(theirs(name).double(), image)
    theirs(name).float()
    assert list(found) == ["res3", "res4", "res5"]
    for ours, their in zip(found.values(), expected, strict=True):
        assert their.std() > 0.01
        torch.testing.assert_close(ours, their, rtol=1e-5, atol=1e-5)


def test_names_by_hand():
    names = {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.conv1.weight": "res2.0.conv1.weight",
        "layer1.0.bn2.weight": "res2.0.conv2.norm.weight",
        "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
        "layer2.0.downsample.1.bias": "res3.0.shortcut.norm.bias",
        "layer3.22.bn3.running_mean": "res4.22.conv3.norm.running_mean",
        "layer4.2.conv3.weight": "res5.2.conv3.weight",
        "fc.weight": "fc.weight",
    }
    weights = {"bn1.weight": 0, **{name: i for i, name in enumerate(names)}}
    renamed = rename_torchvision(weights)
    assert renamed.pop("stem.conv1.norm.weight") == 0
    assert renamed == {name: i for i, name in enumerate(names.values())}
    assert "conv1.weight" in weights  # the argument stays


@pytest.mark.parametrize("name", ["mobilenet_v2", "vgg11_bn", "densenet121", "googlenet"])
def test_other_models_keep_their_names(name):
    with torch.device("meta"):
        weights = torchvision.models.get_model(name, weights=None, **googlenet(name)).state_dict()
    assert rename_torchvision(weights) == weights


def googlenet(name):
    return {"init_weights": False} if name == "googlenet" else {}


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_our_own_names_stay(norm):
    with torch.device("meta"):
        weights = build_resnet_backbone(config_of("resnet50", norm), RGB).state_dict()
    assert rename_torchvision(weights) == weights


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"conv1.weight": 1, "bn1.weight": 2},
        {"net.conv1.weight": 1, "net.bn1.weight": 2, "net.layer1.0.conv1.weight": 3},
    ],
    ids=["empty", "no layer1", "prefix"],
)
def test_what_only_resembles_it_stays(weights):
    assert rename_torchvision(weights) == weights


@pytest.mark.parametrize("entry", [None, "state_dict", "model"])
def test_files(tmp_path, entry):
    """A bare state dict, as torchvision writes it, or one within a file, into a detector."""
    weights = theirs("resnet18").state_dict()
    path = save(tmp_path, weights if entry is None else {entry: weights, "epoch": 3})
    assert torch.equal(load_file(path)["model"]["conv1.weight"], weights["conv1.weight"])
    backbone = build_retinanet_resnet_fpn_backbone(config_of("resnet18", "EvalBN"))
    Checkpointer(backbone).load(path)
    for ours, their in (
        ("bottom_up.stem.conv1.norm.running_mean", "bn1.running_mean"),
        ("bottom_up.res5.1.conv2.weight", "layer4.1.conv2.weight"),
        ("bottom_up.res3.0.shortcut.norm.weight", "layer2.0.downsample.1.weight"),
    ):
        assert torch.equal(backbone.state_dict()[ours], weights[their])


def test_names_without_a_classifier(tmp_path):
    """Other projects publish backbones so: {"state_dict": ...} without fc and counters."""
    weights = {
        name: value
        for name, value in theirs("resnet18").state_dict().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    backbone = build_resnet_backbone(config_of("resnet18", "FrozenBN"), RGB)
    content = load_file(save(tmp_path, {"state_dict": weights, "meta": {}}))
    report = load_weights(backbone, content["model"], strict=True)
    assert report.describe() == "" and len(report.loaded) == len(weights) == 100


# -- addresses -------------------------------------------------------------------------------------


def test_address_as_weights(tmp_path, monkeypatch):
    """torchvision://resnet18 into a backbone, from the folder of weights."""
    save(tmp_path, theirs("resnet18").state_dict(), "resnet18.pth")
    monkeypatch.setenv("CVPODS_WEIGHTS", str(tmp_path))
    monkeypatch.setitem(
        CATALOG, "torchvision://resnet18", PublishedWeights("http://host/resnet18.pth")
    )
    backbone = build_resnet_backbone(config_of("resnet18", "FrozenBN"), RGB)
    Checkpointer(backbone).load("torchvision://resnet18", strict=True)
    weight = theirs("resnet18").layer3[1].conv2.weight
    assert torch.equal(backbone.res4[1].conv2.weight, weight)


# -- fixed statistics, learned affine map ----------------------------------------------------------


def eval_norm():
    """Return an EvalBN of 3 channels with random parameters and statistics."""
    torch.manual_seed(0)
    norm = EvalBatchNorm2d(3)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def test_eval_norm_by_name():
    assert type(get_norm("EvalBN", 3)) is EvalBatchNorm2d


def test_eval_norm_by_hand():
    """2 * (5 - 1) / sqrt(4 + 1e-5) + 3 = 7, in training mode too."""
    norm = EvalBatchNorm2d(1)
    for name, value in (("weight", 2), ("bias", 3), ("running_mean", 1), ("running_var", 4)):
        nn.init.constant_(getattr(norm, name), value)
    for mode in (True, False):
        assert norm.train(mode)(torch.full((1, 1, 2, 2), 5.0)).tolist() == [
            [[[pytest.approx(7, abs=1e-4)] * 2] * 2]
        ]


def test_statistics_stay_in_training():
    model = nn.Sequential(eval_norm(), nn.ReLU()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.randn(4, 3, 5, 5) * 9 + 7
    trained = model(image)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(trained, model.eval()(image))


def test_affine_map_has_gradients():
    """Gradients of the sum of outputs: 4 * 25 places for the bias, the sum of z for the weight."""
    norm = eval_norm().train()
    image = torch.randn(4, 3, 5, 5, requires_grad=True)
    norm(image).sum().backward()
    mean, variance = (x.view(1, 3, 1, 1) for x in (norm.running_mean, norm.running_var))
    z = (image - mean) / (variance + norm.eps).sqrt()
    assert norm.bias.grad.tolist() == pytest.approx([100] * 3)
    assert torch.allclose(norm.weight.grad, z.sum(dim=(0, 2, 3)), rtol=1e-4, atol=1e-4)
    slope = norm.weight.view(1, 3, 1, 1) / (variance + norm.eps).sqrt()
    assert torch.allclose(image.grad, slope.expand_as(image))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_as_frozen_batch_norm(requires_grad):
    norm, frozen = eval_norm().train(), FrozenBatchNorm2d(3)
    frozen.load_state_dict({k: v for k, v in norm.state_dict().items() if k in frozen.state_dict()})
    image = torch.randn(2, 3, 4, 4, requires_grad=requires_grad)
    assert torch.allclose(norm(image), frozen(image), atol=1e-5)
    assert list(norm.parameters()) and not list(frozen.parameters())


def test_frozen_stages_do_not_train():
    """FREEZE_AT 2: stem and res2 have frozen norms and nothing to learn, res3 - res5 all."""
    backbone = build_retinanet_resnet_fpn_backbone(config_of("resnet50", "EvalBN"))
    backbone.train()
    bottom_up = backbone.bottom_up
    for stage in (bottom_up.stem, bottom_up.res2):
        assert not any(parameter.requires_grad for parameter in stage.parameters())
        assert {type(m) for m in stage.modules() if "BatchNorm" in type(m).__name__} == {
            FrozenBatchNorm2d
        }
    for stage in (bottom_up.res3, bottom_up.res4, bottom_up.res5):
        norms = [m for m in stage.modules() if "BatchNorm" in type(m).__name__]
        assert {type(norm) for norm in norms} == {EvalBatchNorm2d}
        assert all(parameter.requires_grad for parameter in stage.parameters())


def test_a_step_of_training():
    """Weights and affine maps of res3 - res5 move; statistics, stem and res2 do not."""
    torch.manual_seed(0)
    backbone = build_retinanet_resnet_fpn_backbone(config_of("resnet18", "EvalBN")).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    learning = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    outputs = backbone(torch.randn(2, 3, 64, 64))
    sum(x.square().mean() for x in outputs.values()).backward()
    optimizer.step()
    moved = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    parameters = {name for name, _ in backbone.named_parameters()}
    later = ("bottom_up.res3", "bottom_up.res4", "bottom_up.res5", "fpn_", "top_block")
    assert moved == {name for name in parameters if name.startswith(later)}
    assert "bottom_up.res4.0.conv1.norm.weight" in moved


# -- P6 and P7 without a relu between them ---------------------------------------------------------


@pytest.mark.parametrize("relu", [True, False])
def test_relu_before_p7(relu):
    torch.manual_seed(0)
    block = LastLevelP6P7(4, 4, relu=relu)
    p6, p7 = block(torch.randn(2, 4, 16, 16))
    assert p6.shape == (2, 4, 8, 8) and p7.shape == (2, 4, 4, 4)
    assert (p6 < 0).any() and (p6 > 0).any()  # P6 itself comes without a relu
    assert torch.equal(p7, block.p7(p6.clamp(min=0) if relu else p6))
    assert not torch.allclose(p7, block.p7(p6 if relu else p6.clamp(min=0)))


@pytest.mark.parametrize("relu", [None, True, False])
def test_relu_before_p7_by_config(relu):
    """The relu is used unless the config turns it off."""
    config = config_of("resnet18", "FrozenBN")
    if relu is not None:
        config.MODEL.FPN.RELU_BEFORE_P7 = relu
    torch.manual_seed(0)
    backbone = build_retinanet_resnet_fpn_backbone(config)
    with torch.no_grad():
        outputs = backbone(torch.randn(1, 3, 64, 64))
    p6, p7 = outputs["p6"], outputs["p7"]
    assert (p6 < 0).any()
    expected = p6 if relu is False else p6.clamp(min=0)
    assert torch.equal(p7, backbone.top_block.p7(expected))
    assert not torch.allclose(p7, backbone.top_block.p7(p6.clamp(min=0) if relu is False else p6))
