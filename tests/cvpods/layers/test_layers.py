"""ShapeSpec, cat, Conv2d, norms and activations by name, FrozenBatchNorm2d."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

from cvpods.layers import (
    BatchNorm2d,
    Conv2d,
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    ShapeSpec,
    cat,
    get_activation,
    get_norm,
)

EPS = 1e-5


# -- ShapeSpec -----------------------------------------------------------------------------------


def test_shape_spec_fields():
    spec = ShapeSpec(channels=3, stride=8)
    assert (spec.channels, spec.height, spec.width, spec.stride) == (3, None, None, 8)
    assert spec == ShapeSpec(stride=8, channels=3) and isinstance(spec, tuple)
    assert spec._replace(stride=16) == ShapeSpec(channels=3, stride=16)


def test_shape_spec_is_keyword_only():
    with pytest.raises(TypeError):
        ShapeSpec(3)
    with pytest.raises(TypeError):
        ShapeSpec(depth=3)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_shape_spec_copies(duplicate):
    spec = ShapeSpec(channels=3, height=4, width=5, stride=8)
    assert duplicate(spec) == spec and type(duplicate(spec)) is ShapeSpec


# -- cat, Conv2d ---------------------------------------------------------------------------------


def test_cat():
    ones, zeros = torch.ones(2, 1), torch.zeros(2, 1)
    assert torch.equal(cat([ones, zeros]), torch.cat([ones, zeros]))
    assert torch.equal(cat((ones, zeros), dim=1), torch.tensor([[1.0, 0], [1, 0]]))
    assert cat([ones], dim=1) is ones


def test_conv_with_norm_and_activation():
    torch.manual_seed(0)
    conv = Conv2d(2, 4, 3, padding=1, bias=False, norm=nn.GroupNorm(2, 4), activation=nn.ReLU())
    x = torch.randn(1, 2, 5, 5)
    plain = nn.functional.conv2d(x, conv.weight, padding=1)
    expected = nn.functional.group_norm(plain, 2, conv.norm.weight, conv.norm.bias).relu()
    assert torch.allclose(conv(x), expected) and (conv(x) == 0).any()


@pytest.mark.parametrize(
    ("norm", "keys"),
    [
        ("", {"weight"}),
        ("GN", {"weight", "norm.weight", "norm.bias"}),
        (
            "FrozenBN",
            {
                "weight",
                "norm.weight",
                "norm.bias",
                "norm.running_mean",
                "norm.running_var",
            },
        ),
    ],
)
def test_conv_state_keys(norm, keys):
    conv = Conv2d(3, 32, 1, bias=False, norm=get_norm(norm, 32))
    assert set(conv.state_dict()) == keys


# -- by name -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("BN", nn.BatchNorm2d),
        ("SyncBN", NaiveSyncBatchNorm),
        ("nnSyncBN", nn.SyncBatchNorm),
        ("FrozenBN", FrozenBatchNorm2d),
        ("GN", nn.GroupNorm),
        (nn.InstanceNorm2d, nn.InstanceNorm2d),
        (lambda channels: nn.GroupNorm(2, channels), nn.GroupNorm),
    ],
)
def test_get_norm(name, cls):
    norm = get_norm(name, 64)
    assert type(norm) is cls
    assert getattr(norm, "num_features", getattr(norm, "num_channels", None)) == 64


def test_group_norm_has_32_groups():
    assert get_norm("GN", 64).num_groups == 32


@pytest.mark.parametrize("name", ["", None])
def test_no_norm(name):
    assert get_norm(name, 64) is None


def test_batch_norm_is_torchs():
    assert BatchNorm2d is nn.BatchNorm2d


def test_unknown_norm_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"BN.*SyncBN.*FrozenBN.*GN.*'LN'"):
        get_norm("LN", 64)


@pytest.mark.parametrize(
    ("config", "cls", "inplace"),
    [
        ({"NAME": "ReLU"}, nn.ReLU, True),
        ({"NAME": "ReLU", "INPLACE": False}, nn.ReLU, False),
        ({"NAME": "ReLU6", "INPLACE": True}, nn.ReLU6, True),
    ],
)
def test_get_activation(config, cls, inplace):
    activation = get_activation(config)
    assert type(activation) is cls and activation.inplace is inplace
    assert get_activation(None) is None


def test_unknown_activation():
    with pytest.raises(ValueError, match="ReLU.*'Mish'"):
        get_activation({"NAME": "Mish"})


# -- FrozenBatchNorm2d ---------------------------------------------------------------------------


def random_batch_norm(channels=4, eps=EPS):
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(channels, eps=eps)
    norm.weight.data.uniform_(-2, 2, generator=generator)
    norm.bias.data.uniform_(-2, 2, generator=generator)
    norm.running_mean.uniform_(-2, 2, generator=generator)
    norm.running_var.uniform_(0.1, 2, generator=generator)
    return norm.eval()


@pytest.fixture
def x():
    return torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("eps", [EPS, 1e-3])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_frozen_equals_batch_norm_in_evaluation(x, eps, gradient, training):
    norm = random_batch_norm(eps=eps)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm).train(training)
    expected_input = x.clone().requires_grad_()
    expected = norm(expected_input)
    expected.square().sum().backward()
    x.requires_grad_(gradient)
    actual = frozen(x)
    assert torch.allclose(actual, expected, atol=1e-5)
    if gradient:
        actual.square().sum().backward()
        assert torch.allclose(x.grad, expected_input.grad, atol=1e-4)


def test_frozen_starts_as_the_identity(x):
    assert torch.allclose(FrozenBatchNorm2d(4)(x), x, atol=1e-6)


def test_frozen_has_buffers_only():
    frozen = FrozenBatchNorm2d(4)
    assert list(frozen.parameters()) == []
    assert {name: buffer.unique().tolist() for name, buffer in frozen.named_buffers()} == {
        "weight": [1],
        "bias": [0],
        "running_mean": [0],
        "running_var": [pytest.approx(1 - EPS)],
    }
    assert set(frozen.state_dict()) == set(dict(frozen.named_buffers()))


def test_training_does_not_move_the_statistics(x):
    frozen = FrozenBatchNorm2d(4).train()
    before = copy.deepcopy(frozen.state_dict())
    frozen(x + 5)
    assert all(torch.equal(before[key], value) for key, value in frozen.state_dict().items())


@pytest.mark.parametrize("gradient", [False, True])
def test_frozen_keeps_bfloat16(x, gradient):
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(random_batch_norm())
    output = frozen(x.bfloat16().requires_grad_(gradient))
    assert output.dtype == torch.bfloat16
    assert torch.allclose(output.float(), frozen(x), atol=0.1)


@pytest.mark.parametrize("cls", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_conversion_reaches_every_norm(cls):
    model = nn.Sequential(
        cls(4), nn.ModuleDict({"inner": nn.Sequential(cls(2), nn.GroupNorm(1, 2))})
    )
    model[0].running_mean.fill_(3)
    converted = FrozenBatchNorm2d.convert_frozen_batchnorm(model)
    assert converted is model
    assert isinstance(model[0], FrozenBatchNorm2d) and model[0].running_mean.tolist() == [3] * 4
    assert isinstance(model[1]["inner"][0], FrozenBatchNorm2d)
    assert isinstance(model[1]["inner"][1], nn.GroupNorm)


def test_conversion_without_affine():
    norm = nn.BatchNorm2d(4, affine=False, eps=1e-3)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    assert frozen.weight.tolist() == [1] * 4 and frozen.bias.tolist() == [0] * 4
    assert frozen.eps == 1e-3 and frozen.running_var.tolist() == [1] * 4


def test_load_own_state():
    source = FrozenBatchNorm2d.convert_frozen_batchnorm(random_batch_norm())
    target = FrozenBatchNorm2d(4)
    target.load_state_dict(source.state_dict())
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_load_without_statistics_is_affine(x):
    """A Caffe2 file holds weight and bias only: y = weight * x + bias."""
    frozen = FrozenBatchNorm2d(4)
    frozen.running_mean.fill_(7)
    weight, bias = torch.arange(4.0), torch.arange(4.0) + 1
    frozen.load_state_dict({"weight": weight, "bias": bias})
    expected = x * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
    assert torch.allclose(frozen(x), expected, atol=1e-5)


def versioned(version):
    state = OrderedDict(
        weight=torch.ones(4),
        bias=torch.zeros(4),
        running_mean=torch.zeros(4),
        running_var=torch.full((4,), 2.0),
    )
    if version is not None:
        state._metadata = {"": {"version": version}}
    return state


@pytest.mark.parametrize(
    ("version", "expected"), [(None, 2.0), (1, 2 - 1e-3), (2, 2 - 1e-3), (3, 2.0)]
)
def test_old_versions_added_eps_to_the_variance(version, expected):
    frozen = FrozenBatchNorm2d(4, eps=1e-3)
    state = versioned(version)
    frozen.load_state_dict(state)
    assert frozen.running_var.tolist() == pytest.approx([expected] * 4)
    assert state["running_var"].tolist() == [2.0] * 4


def test_version_1_without_statistics_is_affine(x):
    state = versioned(1)
    del state["running_mean"], state["running_var"]
    frozen = FrozenBatchNorm2d(4, eps=0.1)
    frozen.load_state_dict(state)
    assert torch.allclose(frozen(x), x, atol=1e-5)


def test_a_partial_load_leaves_the_layer_alone():
    """A file that does not mention the layer must not reset its statistics."""
    model = nn.ModuleDict({"norm": FrozenBatchNorm2d(4), "head": nn.Linear(2, 2)})
    model["norm"].running_mean.fill_(3)
    model.load_state_dict({"head.bias": torch.ones(2)}, strict=False)
    assert model["norm"].running_mean.tolist() == [3] * 4


def test_repr():
    assert repr(FrozenBatchNorm2d(4)) == "FrozenBatchNorm2d(num_features=4, eps=1e-05)"
