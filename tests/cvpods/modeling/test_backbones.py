"""ResNet with and without deformation, MobileNetV2 and the feature pyramid."""

import pickle

import pytest
import torch
import torchvision
from torch import nn

from cvpods.checkpoint import load_file, load_weights
from cvpods.configs import FCOSConfig, RetinaNetConfig
from cvpods.layers import (
    Conv2d,
    DeformConv,
    FrozenBatchNorm2d,
    ModulatedDeformConv,
    OffsetConv,
    ShapeSpec,
)
from cvpods.modeling.backbone import (
    FPN,
    Backbone,
    MobileNetV2,
    ResNet,
    build_mobilenetv2_backbone,
    build_resnet_backbone,
    build_resnet_fpn_backbone,
    build_retinanet_fpn_backbone,
    build_retinanet_mobilenetv2_fpn_backbone,
    build_retinanet_resnet_fpn_backbone,
    build_retinanet_resnet_fpn_p5_backbone,
)
from cvpods.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from cvpods.modeling.backbone.resnet import BasicStem
from cvpods.modeling.backbone.resnet_blocks import Deformation
from cvpods.utils.errors import CheckpointError, ConfigError

ALL = ["stem", "res2", "res3", "res4", "res5"]
RGB = ShapeSpec(channels=3)


def without_data(build, *args, **kwargs):
    """Build on the meta device: shapes only, no time spent on initial values."""
    with torch.device("meta"):
        return build(*args, **kwargs)


def resnet18(**kwargs):
    return ResNet(depth=18, **{"out_features": ["res5"], "res2_out_channels": 64, **kwargs})


def config_of(cls=FCOSConfig, depth=18):
    """A config whose pyramid is small."""
    config = cls()
    config.MODEL.RESNETS.DEPTH = depth
    config.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    config.MODEL.FPN.OUT_CHANNELS = 8
    return config


def features_of(backbone, height=64, width=64):
    device = next(backbone.parameters()).device
    with torch.no_grad():
        return backbone.eval()(torch.zeros(1, 3, height, width, device=device))


# -- ResNet: shapes and keys ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "channels"),
    [
        (18, [64, 64, 128, 256, 512]),
        (34, [64, 64, 128, 256, 512]),
        (50, [64, 256, 512, 1024, 2048]),
        (101, [64, 256, 512, 1024, 2048]),
    ],
)
def test_resnet_shapes(depth, channels):
    """Strides 4, 4, 8, 16, 32: a 64 x 64 image gives 16, 16, 8, 4, 2."""
    backbone = without_data(ResNet, depth=depth, out_features=ALL, res2_out_channels=channels[1])
    assert isinstance(backbone, Backbone) and backbone.size_divisibility == 0
    assert backbone.output_shape() == {
        name: ShapeSpec(channels=c, stride=s)
        for name, c, s in zip(ALL, channels, [4, 4, 8, 16, 32], strict=True)
    }
    outputs = features_of(backbone)
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        name: (1, c, side, side)
        for name, c, side in zip(ALL, channels, [16, 16, 8, 4, 2], strict=True)
    }


def test_output_shape_is_true_of_odd_sizes():
    """70 x 50 -> 35 x 25 -> 18 x 13 (stride 4) -> 9 x 7 -> 5 x 4 -> 3 x 2."""
    outputs = features_of(without_data(resnet18, out_features=ALL), 70, 50)
    assert [tuple(outputs[name].shape[2:]) for name in ALL[1:]] == [
        (18, 13),
        (9, 7),
        (5, 4),
        (3, 2),
    ]


def expected_keys(blocks, convs):
    """State-dict keys of cvpods: `{conv}.weight` and `{conv}.norm.*`, no bias."""
    names = ["stem.conv1"]
    for stage, count in zip(range(2, 6), blocks, strict=True):
        for i in range(count):
            names += [f"res{stage}.{i}.conv{j}" for j in range(1, convs + 1)]
        if convs == 3 or stage > 2:
            names.append(f"res{stage}.0.shortcut")
    parts = ["weight", *(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var"))]
    return {f"{name}.{part}" for name in names for part in parts}


def test_resnet50_keys():
    """1 + (3 + 4 + 6 + 3) * 3 + 4 shortcuts = 53 convolutions of 5 entries each: 265."""
    keys = set(without_data(ResNet, depth=50, out_features=ALL, norm="FrozenBN").state_dict())
    assert keys == expected_keys((3, 4, 6, 3), convs=3) and len(keys) == 265


def test_resnet18_keys():
    """1 + 8 * 2 + 3 shortcuts (res2 keeps 64 channels) = 20 convolutions: 100."""
    keys = set(without_data(resnet18, norm="FrozenBN").state_dict())
    assert keys == expected_keys((2, 2, 2, 2), convs=2) and len(keys) == 100


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_stride_is_where_it_should_be(stride_in_1x1):
    backbone = without_data(ResNet, depth=50, out_features=["res3"], stride_in_1x1=stride_in_1x1)
    first, second = backbone.res3[0].conv1.stride, backbone.res3[0].conv2.stride
    assert (first, second) == (((2, 2), (1, 1)) if stride_in_1x1 else ((1, 1), (2, 2)))
    assert backbone.res3[0].shortcut.stride == (2, 2)
    assert backbone.res2[0].conv1.stride == backbone.res2[0].conv2.stride == (1, 1)
    assert backbone.res3[1].conv1.stride == backbone.res3[1].conv2.stride == (1, 1)


@pytest.mark.parametrize(("groups", "width"), [(32, 8), (32, 4), (64, 4), (1, 64)])
def test_group_width(groups, width):
    """The first stage is groups * width wide, the next twice that; outputs stay 256 and 512."""
    backbone = without_data(
        ResNet,
        depth=50,
        out_features=["res2", "res3"],
        num_groups=groups,
        width_per_group=width,
    )
    for stage, factor in (("res2", 1), ("res3", 2)):
        conv = getattr(backbone, stage)[0].conv2
        assert conv.in_channels == conv.out_channels == factor * groups * width
        assert conv.groups == groups
        assert backbone.output_shape()[stage].channels == 256 * factor


def test_only_needed_stages_are_built():
    backbone = resnet18(out_features=["res3", "stem"])
    assert not hasattr(backbone, "res4") and list(features_of(backbone)) == ["res3", "stem"]


def test_res5_dilation_keeps_the_stride():
    backbone = without_data(ResNet, depth=50, out_features=["res4", "res5"], res5_dilation=2)
    assert [shape.stride for shape in backbone.output_shape().values()] == [16, 16]
    assert [x.shape[2:] for x in features_of(backbone).values()] == [(4, 4), (4, 4)]
    assert all(block.conv2.dilation == (2, 2) for block in backbone.res5)
    assert backbone.res4[0].conv2.dilation == (1, 1)


def test_classifier():
    backbone = resnet18(out_features=["linear", "res5"], num_classes=10)
    outputs = features_of(backbone)
    assert outputs["linear"].shape == (1, 10)
    assert torch.allclose(outputs["linear"], backbone.linear(outputs["res5"].mean((2, 3))))
    assert backbone.output_shape()["linear"].channels == 10


def test_deep_stem():
    backbone = resnet18(out_features=["stem"], deep_stem=True, stem_out_channels=32)
    assert features_of(backbone)["stem"].shape == (1, 32, 16, 16)
    convs = {key.split(".")[1] for key in backbone.state_dict()}
    assert convs == {"conv1_1", "conv1_2", "conv1_3"}


def test_zero_init_residual_starts_as_the_identity():
    backbone = resnet18(out_features=["stem", "res2"], zero_init_residual=True).eval()
    outputs = backbone(torch.rand(1, 3, 32, 32))
    assert torch.allclose(outputs["res2"], outputs["stem"]) and outputs["stem"].abs().sum() > 0


def test_channels_of_the_image():
    assert resnet18(out_features=["stem"], in_channels=1).stem.conv1.in_channels == 1


# -- ResNet: norms and freezing ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "cls"),
    [
        ("FrozenBN", FrozenBatchNorm2d),
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("GN", nn.GroupNorm),
        ("", type(None)),
    ],
)
def test_norms(norm, cls):
    backbone = without_data(resnet18, out_features=["res3"], norm=norm)
    for conv in (backbone.stem.conv1, backbone.res3[0].conv1, backbone.res3[0].shortcut):
        assert type(conv.norm) is cls and conv.bias is None


@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at_freezes_exactly_that(freeze_at):
    backbone = without_data(resnet18, norm="BN", freeze_at=freeze_at)
    parts = {"stem": 1, "res2": 2, "res3": 3, "res4": 4, "res5": 5}
    for name, number in parts.items():
        part = getattr(backbone, name)
        frozen = number <= freeze_at
        assert {p.requires_grad for p in part.parameters()} == {not frozen}
        norms = {type(m) for m in part.modules() if type(m).__name__.endswith("Norm2d")}
        assert norms == {FrozenBatchNorm2d if frozen else nn.BatchNorm2d}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"depth": 20, "out_features": ["res5"]}, "DEPTH .*20"),
        ({"depth": None, "out_features": ["res5"]}, "DEPTH .*None"),
        ({"depth": 50, "out_features": ["res6"]}, "OUT_FEATURES .*res6"),
        ({"depth": 50, "out_features": []}, "OUT_FEATURES"),
        ({"depth": 50, "out_features": ["linear"]}, "OUT_FEATURES .*linear"),
        ({"depth": 18, "out_features": ["res5"]}, "RES2_OUT_CHANNELS 64 .*256"),
        (
            {"depth": 18, "out_features": ["res5"], "res2_out_channels": 64, "num_groups": 32},
            "NUM_GROUPS 1.*32",
        ),
    ],
)
def test_resnet_errors(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        ResNet(**kwargs)


def test_build_resnet_from_config():
    config = RetinaNetConfig()
    config.MODEL.RESNETS.DEPTH = 50
    backbone = without_data(build_resnet_backbone, config, RGB)
    assert list(backbone.output_shape()) == ["res3", "res4", "res5"]
    assert backbone.res3[0].conv1.stride == (2, 2)
    assert not any(p.requires_grad for p in backbone.res2.parameters())
    assert all(p.requires_grad for p in backbone.res3.parameters())
    assert isinstance(backbone.res5[2].conv3.norm, FrozenBatchNorm2d)


def test_depth_must_be_set():
    with pytest.raises(ConfigError, match="MODEL.RESNETS.DEPTH"):
        build_resnet_backbone(FCOSConfig(), RGB)


# -- ResNet: deformable convolutions -------------------------------------------------------------


def deformed(*stages, **kwargs):
    """Deformations of the named stages."""
    return {"deformations": {stage: Deformation(**kwargs) for stage in stages}}


def narrow_resnet50(**kwargs):
    """All of ResNet-50's blocks, few channels: 4 in the 3x3 convolutions of res2, 16 out of it."""
    narrow = {"width_per_group": 4, "res2_out_channels": 16, "stem_out_channels": 8}
    return ResNet(depth=50, **{"out_features": ALL[1:], **narrow, **kwargs})


def silence(backbone):
    """No offsets, and mask logits of 0: masks of 1/2."""
    for module in backbone.modules():
        if isinstance(module, OffsetConv):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


@pytest.mark.parametrize("build", [resnet18, narrow_resnet50])
@pytest.mark.parametrize("stages", [["res3", "res4", "res5"], ["res4"], ["res2"], []], ids=str)
@pytest.mark.parametrize("modulated", [True, False])
def test_deformable_stages(build, stages, modulated):
    """The second convolution of every block of a named stage deforms, and no other one."""
    backbone = without_data(
        build, out_features=ALL, **deformed(*stages, modulated=modulated, groups=2)
    )
    blocks = [f"{stage}.{i}" for stage in stages for i in range(len(getattr(backbone, stage)))]
    modules = dict(backbone.named_modules())
    deforming = [name for name, m in modules.items() if isinstance(m, DeformConv)]
    predictors = [name for name, m in modules.items() if isinstance(m, OffsetConv)]
    assert deforming == [f"{block}.conv2" for block in blocks]
    assert predictors == [f"{block}.conv2_offset" for block in blocks]
    for name in deforming:
        assert type(modules[name]) is (ModulatedDeformConv if modulated else DeformConv)
        assert modules[name].deformable_groups == 2
    for name in predictors:
        assert modules[name].out_channels == (54 if modulated else 36)


def test_deformable_resnet50_keys_and_parameters():
    """265 entries, and 2 for the offsets of each of 4 + 6 + 3 blocks: 291.

    A prediction from C channels has 27 * 9 * C + 27 parameters: 31,131 from 128, 62,235 from 256,
    124,443 from 512. 4 * 31,131 + 6 * 62,235 + 3 * 124,443 = 871,263.
    """
    kwargs = {"depth": 50, "out_features": ALL, "norm": "FrozenBN"}
    plain = without_data(ResNet, **kwargs)
    deformable = without_data(ResNet, **kwargs, **deformed("res3", "res4", "res5"))
    new = {
        f"res{stage}.{i}.conv2_offset.{part}"
        for stage, count in ((3, 4), (4, 6), (5, 3))
        for i in range(count)
        for part in ("weight", "bias")
    }
    keys = set(deformable.state_dict())
    assert keys == expected_keys((3, 4, 6, 3), convs=3) | new and len(keys) == 291
    assert {"res3.0.conv2.weight", "res3.0.conv2.norm.running_var"} <= keys
    added = sum(p.numel() for p in deformable.parameters())
    added -= sum(p.numel() for p in plain.parameters())
    assert added == 871_263


def test_deformable_resnet18_keys():
    """100 entries and 2 for each of the two blocks of res4: 104."""
    keys = set(without_data(resnet18, norm="FrozenBN", **deformed("res4")).state_dict())
    new = {f"res4.{i}.conv2_offset.{part}" for i in (0, 1) for part in ("weight", "bias")}
    assert keys == expected_keys((2, 2, 2, 2), convs=2) | new and len(keys) == 104


def test_initial_values_of_deformable_convolutions():
    """128 channels, so fan-in and fan-out of 1,152.

    The weight is He normal like that of a plain block: deviation sqrt(2 / 1152) = 0.0417. The
    prediction is uniform within sqrt(3 / 1152) = 0.0510, deviation sqrt(1 / 1152) = 0.0295, not 0;
    its bias is 0.
    """
    torch.manual_seed(0)
    backbone = resnet18(out_features=["res3"], **deformed("res3"))
    for block in backbone.res3:
        weight, offset = block.conv2.weight, block.conv2_offset
        assert weight.std().item() == pytest.approx(0.0417, rel=0.03) and weight.abs().max() > 0.12
        assert block.conv2.bias is None
        assert offset.weight.std().item() == pytest.approx(0.0295, rel=0.03)
        assert 0.05 < offset.weight.abs().max() < 0.0511 and (offset.bias == 0).all()


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_offsets_have_the_stride_of_their_convolution(stride_in_1x1):
    backbone = narrow_resnet50(stride_in_1x1=stride_in_1x1, **deformed("res3", "res4", "res5"))
    for stage in (backbone.res3, backbone.res4, backbone.res5):
        expected = (1, 1) if stride_in_1x1 else (2, 2)
        assert stage[0].conv2.stride == stage[0].conv2_offset.stride == expected
        assert stage[1].conv2.stride == stage[1].conv2_offset.stride == (1, 1)
    assert [x.shape[-1] for x in features_of(backbone).values()] == [16, 8, 4, 2]


def test_deformable_groups_of_resnext():
    """8 x 4d: res4 is 8 * 4 * 4 = 128 wide, in 8 groups of 16; the prediction sees all 128."""
    backbone = narrow_resnet50(num_groups=8, **deformed("res4"))
    block = backbone.res4[0]
    assert block.conv2.groups == 8 and block.conv2.weight.shape == (128, 16, 3, 3)
    assert block.conv2_offset.groups == 1 and block.conv2_offset.weight.shape == (27, 128, 3, 3)
    assert features_of(backbone)["res4"].shape == (1, 64, 4, 4)


def test_dilated_res5_deforms():
    """The prediction is dilated as well, so both see the same cells."""
    backbone = narrow_resnet50(res5_dilation=2, **deformed("res5"))
    for block in backbone.res5:
        for conv in (block.conv2, block.conv2_offset):
            assert (conv.stride, conv.padding, conv.dilation) == ((1, 1), (2, 2), (2, 2))
    assert [x.shape[-1] for x in features_of(backbone).values()] == [16, 8, 4, 4]


@pytest.mark.parametrize(
    ("build", "kwargs"),
    [
        (narrow_resnet50, {}),
        (narrow_resnet50, {"stride_in_1x1": True}),
        (narrow_resnet50, {"num_groups": 8}),
        (narrow_resnet50, {"res5_dilation": 2}),
        (resnet18, {"out_features": ["res2", "res3", "res5"]}),
    ],
)
@pytest.mark.parametrize("modulated", [True, False])
def test_plain_weights_carry_over(build, kwargs, modulated):
    """Only the predictions are missing. Silent ones give the plain network's outputs; modulated,
    where the masks are 1/2, once the deformable weights are doubled.
    """
    torch.manual_seed(0)
    plain = randomise_statistics(build(**kwargs))
    backbone = build(**kwargs, **deformed("res3", "res5", modulated=modulated)).eval()
    result = backbone.load_state_dict(plain.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert set(result.missing_keys) == conv2_offsets(backbone)
    assert torch.equal(backbone.res3[0].conv2.weight, plain.res3[0].conv2.weight)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, loaded = plain(x), backbone(x)
        silence(backbone)
        for module in backbone.modules():
            if isinstance(module, ModulatedDeformConv):
                module.weight *= 2
        found = backbone(x)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
    assert torch.equal(loaded["res2"], expected["res2"])
    assert not torch.allclose(loaded["res3"], expected["res3"], rtol=1e-2, atol=1e-2)


def conv2_offsets(backbone):
    return {key for key in backbone.state_dict() if ".conv2_offset." in key}


def caffe2_name(name):
    """Our name of an entry -> Caffe2's: res2.0.conv1.norm.weight -> res2_0_branch2a_bn_s."""
    if name.startswith("stem.conv1.norm."):
        return "res_conv1_bn_s" if name.endswith("weight") else "res_conv1_bn_b"
    name = name.replace("norm.weight", "bn_s").replace("norm.bias", "bn_b").replace("weight", "w")
    if not name.startswith("stem."):
        for j, letter in enumerate("abc", start=1):
            name = name.replace(f"conv{j}", f"branch2{letter}")
    return name.replace("stem.", "").replace("shortcut", "branch1").replace(".", "_")


def test_caffe2_weights_reach_deformable_convolutions(tmp_path):
    """A file of Caffe2 has no predictions and no statistics; all else is taken."""
    torch.manual_seed(0)
    plain = narrow_resnet50(norm="FrozenBN")
    weights = {k: v for k, v in plain.state_dict().items() if ".running_" not in k}
    blobs = {caffe2_name(name): value.numpy() for name, value in weights.items()}
    assert {"conv1_w", "res3_0_branch2b_w", "res3_0_branch2b_bn_s"} <= set(blobs)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    backbone = narrow_resnet50(norm="FrozenBN", **deformed("res3", "res4", "res5"))
    report = load_weights(backbone, load_file(path)["model"], strict=False)
    assert set(report.loaded) == set(weights) and report.unused == report.mismatched == []
    assert {key for key in report.missing if ".running_" not in key} == conv2_offsets(backbone)
    for stage in ALL[1:]:
        for ours, their in zip(getattr(backbone, stage), getattr(plain, stage), strict=True):
            assert torch.equal(ours.conv2.weight, their.conv2.weight)


def test_torchvision_weights_reach_deformable_convolutions(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    weights = load_file(tmp_path / "x.pth")["model"]
    backbone = resnet18(out_features=["res4"], norm="FrozenBN", **deformed("res4"))
    report = load_weights(backbone, weights, strict=False)
    assert set(report.missing) == conv2_offsets(backbone) and len(report.missing) == 4
    assert torch.equal(backbone.res4[1].conv2.weight, theirs.layer3[1].conv2.weight)
    assert torch.equal(backbone.res4[0].conv2.norm.weight, theirs.layer3[0].bn2.weight)
    with pytest.raises(CheckpointError, match=r"res4\.0\.conv2_offset\.weight"):
        load_weights(backbone, weights, strict=True)


@pytest.mark.parametrize("freeze_at", [1, 2, 3, 5])
def test_freezing_covers_offsets(freeze_at):
    backbone = without_data(resnet18, norm="BN", freeze_at=freeze_at, **deformed(*ALL[1:]))
    for stage in (2, 3, 4, 5):
        frozen = stage <= freeze_at
        for block in getattr(backbone, f"res{stage}"):
            for part in (block.conv2, block.conv2_offset):
                assert {p.requires_grad for p in part.parameters()} in ({not frozen}, set())
                assert part.weight.requires_grad is not frozen
            assert type(block.conv2.norm) is (FrozenBatchNorm2d if frozen else nn.BatchNorm2d)


@pytest.mark.parametrize("build", [resnet18, narrow_resnet50])
def test_deformable_backbone_learns(build):
    """Whatever is not frozen has a gradient; stem and res2 have none."""
    torch.manual_seed(0)
    stages = ["res2", "res3", "res4"]
    backbone = build(out_features=stages, freeze_at=2, **deformed(*stages))
    outputs = backbone(torch.randn(2, 3, 64, 64))
    sum(x.square().mean() for x in outputs.values()).backward()
    for name, parameter in backbone.named_parameters():
        if name.startswith(("stem", "res2")):
            assert parameter.grad is None, name
        else:
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("norm", "cls"), [("FrozenBN", FrozenBatchNorm2d), ("GN", nn.GroupNorm), ("", type(None))]
)
def test_norms_of_deformable_convolutions(norm, cls):
    backbone = without_data(resnet18, out_features=["res3"], norm=norm, **deformed("res3"))
    for block in backbone.res3:
        assert type(block.conv2.norm) is cls and block.conv2.activation is None


@pytest.mark.parametrize("build", [resnet18, narrow_resnet50])
def test_deformable_blocks_start_as_the_identity(build):
    """ZERO_INIT_RESIDUAL: the last norm of a BasicBlock is that of its deformable convolution.

    The other norms start from 1, so that gradients reach the last one.
    """
    backbone = build(out_features=["res3"], zero_init_residual=True, **deformed("res3"))
    block = backbone.res3[1].eval()
    x = torch.rand(1, block.conv1.in_channels, 8, 8)
    assert torch.equal(block(x), x)
    assert (block.last_norm.weight == 0).all() and (block.conv1.norm.weight == 1).all()


@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_deformation_from_config(modulated, groups):
    """Switches are in the order of res2, res3, res4, res5."""
    config = config_of(RetinaNetConfig)
    config.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False, True, False, True]
    config.MODEL.RESNETS.DEFORM_MODULATED = modulated
    config.MODEL.RESNETS.DEFORM_NUM_GROUPS = groups
    backbone = without_data(build_resnet_backbone, config, RGB)
    kind = ModulatedDeformConv if modulated else DeformConv
    for stage, expected in zip(ALL[1:], [Conv2d, kind, Conv2d, kind], strict=True):
        assert {type(block.conv2) for block in getattr(backbone, stage)} == {expected}
    outputs = (27 if modulated else 18) * groups
    assert backbone.res5[1].conv2_offset.out_channels == outputs
    assert backbone.res5[1].conv2.deformable_groups == groups


def test_nothing_deforms_by_default():
    backbone = without_data(build_resnet_backbone, config_of(RetinaNetConfig), RGB)
    assert not any(isinstance(m, (DeformConv, OffsetConv)) for m in backbone.modules())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"DEFORM_ON_PER_STAGE": [True] * 3}, r"DEFORM_ON_PER_STAGE .*res5.*\[True, True, True\]"),
        ({"DEFORM_ON_PER_STAGE": [False] * 5}, "DEFORM_ON_PER_STAGE"),
        ({"DEFORM_ON_PER_STAGE": []}, "DEFORM_ON_PER_STAGE"),
        ({"DEFORM_ON_PER_STAGE": [0, 1, 1, 1]}, r"DEFORM_ON_PER_STAGE .*\[0, 1, 1, 1\]"),
        ({"DEFORM_ON_PER_STAGE": ["res3", "res4", "res5", ""]}, "DEFORM_ON_PER_STAGE .*True"),
        ({"DEFORM_ON_PER_STAGE": True}, "DEFORM_ON_PER_STAGE .*got True"),
        (
            {"DEFORM_ON_PER_STAGE": [False, False, False, True], "OUT_FEATURES": ["res4"]},
            r"DEFORM_ON_PER_STAGE .*\['res5'\].* only needs .*'res4'\]",
        ),
        ({"DEFORM_NUM_GROUPS": "2"}, "DEFORM_NUM_GROUPS .*got '2'"),
        ({"DEFORM_NUM_GROUPS": 2.0}, "DEFORM_NUM_GROUPS .*got 2.0"),
        ({"DEFORM_NUM_GROUPS": 0}, "DEFORM_NUM_GROUPS .*64 channels.*got 0"),
        ({"DEFORM_NUM_GROUPS": -1}, "DEFORM_NUM_GROUPS .*got -1"),
        ({"DEFORM_NUM_GROUPS": 3}, "DEFORM_NUM_GROUPS .*64 channels.*got 3"),
        (
            {"DEFORM_NUM_GROUPS": 256, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4},
            "DEFORM_NUM_GROUPS .*128 channels.*got 256",
        ),
    ],
    ids=str,
)
def test_deformation_errors(values, message):
    config = config_of(RetinaNetConfig, depth=50)
    config.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False, True, True, True]
    for key, value in values.items():
        config.MODEL.RESNETS[key] = value
    with pytest.raises(ConfigError, match=f"MODEL.RESNETS.{message}"):
        without_data(build_resnet_backbone, config, RGB)


# -- equality with torchvision -------------------------------------------------------------------


def randomise_statistics(model):
    """Random but mild statistics, so that a norm that ignores one of them is found out."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def our_name(name):
    """torchvision's name of an entry -> ours."""
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    for j in (1, 2, 3):
        name = name.replace(f"bn{j}", f"conv{j}.norm")
    if not name.startswith("layer"):
        return f"stem.{name}"
    return f"res{int(name[5]) + 1}{name[6:]}"


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_equals_torchvision(depth):
    torch.manual_seed(0)
    theirs = randomise_statistics(getattr(torchvision.models, f"resnet{depth}")(weights=None))
    ours = without_data(
        ResNet,
        depth=depth,
        out_features=ALL[1:],
        norm="BN",
        stride_in_1x1=False,
        res2_out_channels=64 if depth < 50 else 256,
    )
    state = {our_name(k): v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state, assign=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        outputs = ours.eval()(x)
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for stage in range(1, 5):
            y = getattr(theirs, f"layer{stage}")(y)
            assert torch.allclose(outputs[f"res{stage + 1}"], y, rtol=1e-5, atol=1e-5)


def test_mobilenet_equals_torchvision():
    torch.manual_seed(0)
    theirs = randomise_statistics(torchvision.models.mobilenet_v2(weights=None))
    ours = without_data(MobileNetV2, out_features=ALL, norm="BN")
    state = {k: v for k, v in theirs.state_dict().items() if k in ours.state_dict()}
    ours.load_state_dict(state, assign=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        outputs, y = ours.eval()(x), x
        last = dict(zip([1, 3, 6, 13, 17], ALL, strict=True))
        for index, block in enumerate(theirs.features[:18]):
            y = block(y)
            if index in last:
                assert torch.allclose(outputs[last[index]], y, rtol=1e-5, atol=1e-5)


# -- MobileNetV2 ---------------------------------------------------------------------------------


def test_mobilenet_shapes():
    """Strides 2, 4, 8, 16, 32; channels 16, 24, 32, 96, 320 (arXiv:1801.04381, table 2)."""
    backbone = without_data(MobileNetV2, out_features=ALL)
    shapes = backbone.output_shape()
    assert [shapes[name].stride for name in ALL] == [2, 4, 8, 16, 32]
    assert [shapes[name].channels for name in ALL] == [16, 24, 32, 96, 320]
    for name, x in features_of(backbone).items():
        side = 64 // shapes[name].stride
        assert x.shape == (1, shapes[name].channels, side, side)


@pytest.mark.parametrize(("freeze_at", "blocks"), [(0, 0), (1, 2), (2, 4), (3, 7), (5, 18)])
def test_mobilenet_freezes_exactly_that(freeze_at, blocks):
    backbone = without_data(MobileNetV2, out_features=["res5"], norm="BN", freeze_at=freeze_at)
    for index, block in enumerate(backbone.features):
        assert {p.requires_grad for p in block.parameters()} == {index >= blocks}
        types = {type(m) for m in block.modules() if type(m).__name__.endswith("Norm2d")}
        assert types == {FrozenBatchNorm2d if index < blocks else nn.BatchNorm2d}


def test_mobilenet_builds_what_is_needed():
    assert len(without_data(MobileNetV2, out_features=["res3"]).features) == 7


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"out_features": ["res6"]}, "res6"),
        ({"out_features": []}, "Features"),
        ({"out_features": ["res5"], "norm": "GN"}, "'GN'"),
    ],
)
def test_mobilenet_errors(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        MobileNetV2(**kwargs)


def test_build_mobilenet_from_config():
    backbone = without_data(build_mobilenetv2_backbone, config_of(), RGB)
    assert list(backbone.output_shape()) == ["res3", "res4", "res5"]
    assert not any(p.requires_grad for p in backbone.features[3].parameters())
    assert all(p.requires_grad for p in backbone.features[4].parameters())


# -- FPN -----------------------------------------------------------------------------------------


class Stub(Backbone):
    """Returns the maps it was given."""

    def __init__(self, maps, strides=(8, 16, 32)):
        super().__init__()
        names = [f"res{i + 3}" for i in range(len(maps))]
        self.maps = dict(zip(names, maps, strict=True))
        self._out_features = names
        self._out_feature_strides = dict(zip(names, strides, strict=True))
        self._out_feature_channels = {name: m.shape[1] for name, m in self.maps.items()}

    def forward(self, x):
        return self.maps


def stub_maps(channels=1, batch=1):
    """Maps of a 64 x 128 image at strides 8, 16, 32."""
    torch.manual_seed(0)
    return [torch.randn(batch, channels, 64 // s, 128 // s) for s in (8, 16, 32)]


def identity_fpn(maps, **kwargs):
    """One channel; every convolution hands its input on."""
    fpn = FPN(Stub(maps), ["res3", "res4", "res5"], 1, **kwargs)
    for level in (3, 4, 5):
        nn.init.ones_(getattr(fpn, f"fpn_lateral{level}").weight)
        nn.init.dirac_(getattr(fpn, f"fpn_output{level}").weight)
    return fpn


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_top_down_by_hand(fuse_type):
    """res5 = [1, 3]; res4 = 10 and res3 = 100 everywhere.

    sum: p5 = [1 3]; p4 = 10 + [1 1 3 3] = [11 11 13 13]; p3 = 100 + p4 = [111 .. 113 ..].
    avg: p4 = half the sum = [5.5 5.5 6.5 6.5]; p3 = (100 + p4) / 2 = [52.75 .. 53.25 ..].
    """
    maps = [
        torch.full((1, 1, 4, 8), 100.0),
        torch.full((1, 1, 2, 4), 10.0),
        torch.tensor([[[[1.0, 3.0]]]]),
    ]
    outputs = identity_fpn(maps, fuse_type=fuse_type)(None)
    p4, p3 = {"sum": ((11, 13), (111, 113)), "avg": ((5.5, 6.5), (52.75, 53.25))}[fuse_type]
    assert outputs["p5"][0, 0].tolist() == [[1, 3]]
    assert outputs["p4"][0, 0].tolist() == [[p4[0]] * 2 + [p4[1]] * 2] * 2
    assert outputs["p3"][0, 0].tolist() == [[p3[0]] * 4 + [p3[1]] * 4] * 4


def test_pyramid_shapes():
    """64 x 128 at strides 8 .. 128; P7 of height 64 / 128 is one cell high."""
    fpn = FPN(
        Stub(stub_maps(channels=6, batch=2)),
        ["res3", "res4", "res5"],
        8,
        top_block=LastLevelP6P7(8, 8, "p5"),
    )
    outputs = fpn(None)
    assert [tuple(x.shape) for x in outputs.values()] == [
        (2, 8, 8, 16),
        (2, 8, 4, 8),
        (2, 8, 2, 4),
        (2, 8, 1, 2),
        (2, 8, 1, 1),
    ]
    assert fpn.output_shape() == {
        f"p{level}": ShapeSpec(channels=8, stride=2**level) for level in range(3, 8)
    }
    assert list(outputs) == list(fpn.output_shape()) and fpn.size_divisibility == 32


@pytest.mark.parametrize(("source", "channels"), [("p5", 8), ("res5", 6)])
def test_p6_and_p7(source, channels):
    maps = stub_maps(channels=6)
    block = LastLevelP6P7(channels, 8, source)
    outputs = FPN(Stub(maps), ["res3", "res4", "res5"], 8, top_block=block)(None)
    p6 = block.p6(outputs["p5"] if source == "p5" else maps[2])
    assert torch.equal(outputs["p6"], p6)
    assert torch.equal(outputs["p7"], block.p7(p6.relu())) and (p6 < 0).any()


def test_max_pool_takes_every_second_cell():
    fpn = identity_fpn(stub_maps(), top_block=LastLevelMaxPool())
    outputs = fpn(None)
    assert torch.equal(outputs["p6"], outputs["p5"][..., ::2, ::2])
    assert list(fpn.output_shape()) == ["p3", "p4", "p5", "p6"]


def test_fpn_keys():
    fpn = FPN(Stub(stub_maps()), ["res3", "res4", "res5"], 8, top_block=LastLevelP6P7(8, 8, "p5"))
    names = [f"fpn_{kind}{level}" for kind in ("lateral", "output") for level in (3, 4, 5)]
    names += ["top_block.p6", "top_block.p7"]
    assert set(fpn.state_dict()) == {f"{n}.{part}" for n in names for part in ("weight", "bias")}


def test_fpn_with_norm_has_no_bias():
    fpn = FPN(Stub(stub_maps()), ["res5"], 32, norm="GN")
    assert set(fpn.state_dict()) == {
        f"fpn_{kind}5.{part}"
        for kind in ("lateral", "output")
        for part in ("weight", "norm.weight", "norm.bias")
    }


@pytest.mark.parametrize(
    ("strides", "features", "kwargs", "message"),
    [
        ((8, 16, 32), ["res3"], {"fuse_type": "max"}, "'max'"),
        ((8, 16, 32), ["res3", "res6"], {}, "IN_FEATURES .*res5.*res6"),
        ((8, 16, 32), [], {}, "IN_FEATURES"),
        ((8, 16, 32), ["res3", "res5"], {}, "double"),
        ((8, 16, 32), ["res4", "res3"], {}, "double"),
        ((8, 12, 32), ["res3", "res4"], {}, "powers of two; got 12"),
    ],
)
def test_fpn_errors(strides, features, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        FPN(Stub(stub_maps(), strides), features, 8, **kwargs)


# -- pyramids from configs -----------------------------------------------------------------------


@pytest.mark.parametrize(("source", "channels"), [("p5", 8), ("res5", 512)])
def test_p6_source_comes_from_the_config(source, channels):
    config = config_of()
    config.MODEL.FPN.BLOCK_IN_FEATURES = source
    fpn = without_data(build_retinanet_resnet_fpn_backbone, config)
    assert fpn.top_block.in_feature == source and fpn.top_block.p6.in_channels == channels
    outputs = features_of(fpn)
    assert [tuple(x.shape[1:]) for x in outputs.values()] == [
        (8, side, side) for side in (8, 4, 2, 1, 1)
    ]


@pytest.mark.parametrize(("cls", "channels"), [(FCOSConfig, 256), (RetinaNetConfig, 2048)])
def test_p6_channels_of_resnet50(cls, channels):
    config = config_of(cls, depth=50)
    config.MODEL.FPN.OUT_CHANNELS = 256
    fpn = without_data(build_retinanet_resnet_fpn_backbone, config, RGB)
    assert fpn.top_block.p6.weight.shape == (256, channels, 3, 3)


def test_p5_builder_wins_over_the_config():
    fpn = without_data(build_retinanet_resnet_fpn_p5_backbone, config_of(RetinaNetConfig), RGB)
    assert fpn.top_block.in_feature == "p5" and fpn.top_block.p6.in_channels == 8


def test_pyramid_of_two_stage_detectors():
    config = config_of()
    features = ["res2", "res3", "res4", "res5"]
    config.MODEL.RESNETS.OUT_FEATURES = config.MODEL.FPN.IN_FEATURES = features
    outputs = features_of(without_data(build_resnet_fpn_backbone, config))
    assert {name: x.shape[-1] for name, x in outputs.items()} == {
        "p2": 16,
        "p3": 8,
        "p4": 4,
        "p5": 2,
        "p6": 1,
    }


def test_pyramid_on_mobilenet():
    fpn = without_data(build_retinanet_mobilenetv2_fpn_backbone, config_of())
    assert isinstance(fpn.bottom_up, MobileNetV2)
    assert [x.shape[-1] for x in features_of(fpn).values()] == [8, 4, 2, 1, 1]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("BLOCK_IN_FEATURES", "p4", "BLOCK_IN_FEATURES .*'p5'.*'p4'"),
        ("IN_FEATURES", ["res3", "res4", "res6"], "IN_FEATURES .*res6"),
        ("IN_FEATURES", [], "IN_FEATURES"),
        ("FUSE_TYPE", "max", "FUSE_TYPE .*'max'"),
    ],
)
def test_pyramid_errors(key, value, message):
    config = config_of()
    config.MODEL.FPN[key] = value
    with pytest.raises(ConfigError, match=message):
        without_data(build_retinanet_fpn_backbone, config)


def test_unknown_backbone_name():
    with pytest.raises(ConfigError, match="resnet.*mobilev2.*'vgg'"):
        build_retinanet_fpn_backbone(config_of(), backbone_name="vgg")


def test_stem_alone():
    assert BasicStem(norm="BN")(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 8, 8)
