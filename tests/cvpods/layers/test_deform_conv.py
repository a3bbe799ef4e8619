"""Deformable convolutions against cases by hand, ordinary convolutions and a slow loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torchvision import ops

from cvpods.layers import DeformConv, DFConv2d, ModulatedDeformConv, OffsetConv
from tests.reference.deform_conv import deform_conv_loop

# Settings of convolutions of 4 channels.
SETTINGS = [
    {"padding": 1},
    {"padding": 0},
    {"padding": 1, "stride": 2},
    {"padding": 2, "dilation": 2},
    {"padding": 1, "groups": 2},
    {"padding": 1, "deformable_groups": 2},
    {"padding": 1, "groups": 4, "deformable_groups": 2},
    {"padding": 2, "stride": 2, "dilation": 2, "groups": 2, "deformable_groups": 4},
    {"padding": (1, 0), "stride": (1, 2), "dilation": (2, 1)},
]


def center_conv(channels=1, **kwargs):
    """3x3, unmodulated; hands every channel on: only the middle of its kernel is 1."""
    conv = DeformConv(channels, channels, 3, padding=1, groups=channels, **kwargs)
    nn.init.zeros_(conv.weight)
    nn.init.ones_(conv.weight[:, 0, 1, 1].data)
    return conv


def offsets_of(conv, x, pairs=()):
    """No offsets, but (dy, dx) everywhere for the given positions of the kernel."""
    with torch.no_grad():
        size = F.conv2d(x[:, :1], torch.zeros(1, 1, *conv.kernel_size), None, *conv_places(conv))
    positions = math.prod(conv.kernel_size) * conv.deformable_groups
    offset = torch.zeros(len(x), 2 * positions, *size.shape[2:])
    for k, (dy, dx) in dict(pairs).items():
        offset[:, 2 * k], offset[:, 2 * k + 1] = dy, dx
    return offset


def conv_places(conv):
    return conv.stride, conv.padding, conv.dilation


def random_inputs(conv, seed=0, images=1, size=(5, 6), scale=1.5):
    """Image, offsets of a few cells, and mask; also random weights and bias."""
    torch.manual_seed(seed)
    nn.init.normal_(conv.weight)
    if conv.bias is not None:
        nn.init.normal_(conv.bias)
    x = torch.randn(images, conv.in_channels, *size)
    offset = torch.randn_like(offsets_of(conv, x)) * scale
    return x, offset, torch.rand(images, offset.shape[1] // 2, *offset.shape[2:])


# -- cases by hand -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((0, 0), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        ((1, 0), [[4, 5, 6, 7], [8, 9, 10, 11], [0, 0, 0, 0]]),
        ((0, 1), [[1, 2, 3, 0], [5, 6, 7, 0], [9, 10, 11, 0]]),
        ((1, -2), [[0, 0, 4, 5], [0, 0, 8, 9], [0, 0, 0, 0]]),
        ((0.5, 0), [[2, 3, 4, 5], [6, 7, 8, 9], [4, 4.5, 5, 5.5]]),
        ((0, -0.5), [[0, 0.5, 1.5, 2.5], [2, 4.5, 5.5, 6.5], [4, 8.5, 9.5, 10.5]]),
        ((0.5, 0.5), [[2.5, 3.5, 4.5, 2.5], [6.5, 7.5, 8.5, 4.5], [4.25, 4.75, 5.25, 2.75]]),
        ((-0.75, 0), [[0, 0.25, 0.5, 0.75], [1, 2, 3, 4], [5, 6, 7, 8]]),
        ((1e6, -1e6), [[0] * 4] * 3),
    ],
)
def test_offset_moves_the_sample(pair, expected):
    """The map is 0 .. 11 in three rows of four; the middle of the kernel moves by (dy, dx).

    (1, 0) reads the row below; (1, -2) from there two columns to the left; nothing is 0.
    (0.5, 0) is the mean of two rows, (0 + 4) / 2 = 2; below the last row is 0: (8 + 0) / 2 = 4.
    (0.5, 0.5) is the mean of four cells, (0 + 1 + 4 + 5) / 4 = 2.5; in the corner 11 / 4 = 2.75.
    (-0.75, 0) is three quarters of the row above: 0.75 * 0 + 0.25 * 4 = 1.
    """
    x = torch.arange(12.0).view(1, 1, 3, 4)
    conv = center_conv()
    y = conv(x, offsets_of(conv, x, {4: pair}))
    assert torch.allclose(y[0, 0], torch.tensor(expected).float(), atol=1e-5)


def test_positions_of_the_kernel_row_by_row():
    """Weights 1, 10, 100 of the upper row; in the middle of ones around 0 .. 8, they read 0, 1, 2.

    Cell (1, 1) of the map 0 .. 8: 0 + 10 + 200 = 210. Position 2, above to the right, moved two
    rows down reads 8: 0 + 10 + 800 = 810. Position 1 moved by (1, -1) reads 3: 0 + 30 + 200.
    """
    x = torch.arange(9.0).view(1, 1, 3, 3)
    conv = DeformConv(1, 1, 3, padding=1)
    conv.weight.data.copy_(torch.tensor([[1.0, 10, 100], [0, 0, 0], [0, 0, 0]]))
    for pairs, expected in (({}, 210), ({2: (2, 0)}, 810), ({1: (1, -1)}, 230)):
        assert conv(x, offsets_of(conv, x, pairs))[0, 0, 1, 1].item() == pytest.approx(expected)


def test_deformable_groups_have_offsets_of_their_own():
    """The first two of 4 channels read the row below, the last two the column to the right.

    Position 4 is the middle of the first group, position 9 + 4 that of the second.
    """
    x = torch.arange(48.0).view(1, 4, 3, 4)
    conv = center_conv(4, deformable_groups=2)
    y = conv(x, offsets_of(conv, x, {4: (1, 0), 13: (0, 1)}))
    assert torch.equal(y[0, :2, :2], x[0, :2, 1:]) and (y[0, :2, 2] == 0).all()
    assert torch.equal(y[0, 2:, :, :3], x[0, 2:, :, 1:]) and (y[0, 2:, :, 3] == 0).all()


def test_mask_by_hand():
    """Over a map of ones with weights 0 .. 8, y = sum_k k * mask_k + bias in the middle.

    Mask 1: 36; mask 1/2: 18; only position 7 at 1/4: 1.75. The bias 100 is not masked.
    """
    x = torch.ones(1, 1, 3, 3)
    conv = ModulatedDeformConv(1, 1, 3, padding=1)
    conv.weight.data.copy_(torch.arange(9.0).view(1, 1, 3, 3))
    nn.init.constant_(conv.bias, 100.0)
    single = torch.zeros(1, 9, 3, 3)
    single[:, 7] = 0.25
    for mask, expected in (
        (torch.ones(1, 9, 3, 3), 136),
        (torch.full((1, 9, 3, 3), 0.5), 118),
        (single, 101.75),
    ):
        assert conv(x, offsets_of(conv, x), mask)[0, 0, 1, 1].item() == expected


@pytest.mark.parametrize("cls", [DeformConv, ModulatedDeformConv])
@pytest.mark.parametrize("kwargs", SETTINGS, ids=str)
def test_without_offsets_an_ordinary_convolution(cls, kwargs):
    conv = cls(4, 8, 3, bias=True, **kwargs)
    x, offset, mask = random_inputs(conv, images=2)
    y = conv(x, torch.zeros_like(offset), torch.ones_like(mask))
    expected = F.conv2d(x, conv.weight, conv.bias, *conv_places(conv), conv.groups)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


# -- against the loop ----------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", SETTINGS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_matches_loop(kwargs, seed):
    conv = ModulatedDeformConv(4, 4, 3, **kwargs)
    inputs = random_inputs(conv, seed, images=2)
    y = conv(*inputs)
    for i in range(2):
        expected = deform_conv_loop(
            *(value[i] for value in inputs),
            conv.weight,
            conv.bias.tolist(),
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            deformable_groups=conv.deformable_groups,
        )
        torch.testing.assert_close(y[i], torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, (1, 3)])
def test_unmodulated_matches_loop(kernel):
    """Without a mask, and with other kernels."""
    conv = DeformConv(2, 2, kernel, deformable_groups=2)
    x, offset, _ = random_inputs(conv)
    expected = deform_conv_loop(
        x[0],
        offset[0],
        None,
        conv.weight,
        [0.0, 0.0],
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        deformable_groups=2,
    )
    torch.testing.assert_close(conv(x, offset)[0], torch.tensor(expected), rtol=1e-4, atol=1e-4)


# -- invariances ---------------------------------------------------------------------------------


def test_mirrored():
    """Image, kernel, offsets and mask mirrored: dx changes its sign, y is mirrored.

    Position (ky, kx) of the kernel becomes (ky, 2 - kx).
    """
    conv = ModulatedDeformConv(2, 3, 3, padding=1)
    x, offset, mask = random_inputs(conv)
    y = conv(x, offset, mask)
    pairs = offset.view(1, 3, 3, 2, 5, 6).flip(2, 5) * torch.tensor([1, -1]).view(2, 1, 1)
    mask = mask.view(1, 3, 3, 5, 6).flip(2, 4).reshape(1, 9, 5, 6)
    conv.weight.data = conv.weight.data.flip(3)
    mirrored = conv(x.flip(3), pairs.reshape(1, 18, 5, 6), mask)
    torch.testing.assert_close(mirrored, y.flip(3), rtol=1e-4, atol=1e-5)


def test_transposed():
    """Rows and columns of everything swapped: dy and dx swap, y is transposed."""
    conv = ModulatedDeformConv(2, 3, 3, padding=1)
    x, offset, mask = random_inputs(conv)
    y = conv(x, offset, mask)
    pairs = offset.view(1, 3, 3, 2, 5, 6).flip(3).permute(0, 2, 1, 3, 5, 4)
    mask = mask.view(1, 3, 3, 5, 6).permute(0, 2, 1, 4, 3).reshape(1, 9, 6, 5)
    conv.weight.data = conv.weight.data.transpose(2, 3).contiguous()
    transposed = conv(x.transpose(2, 3), pairs.reshape(1, 18, 6, 5), mask)
    torch.testing.assert_close(transposed, y.transpose(2, 3), rtol=1e-4, atol=1e-5)


def test_images_do_not_mix():
    conv = ModulatedDeformConv(2, 3, 3, padding=1)
    inputs = random_inputs(conv, images=3)
    order = [2, 0, 1]
    y = conv(*inputs)
    permuted = conv(*(value[order] for value in inputs))
    torch.testing.assert_close(permuted, y[order])
    assert not torch.allclose(permuted, y)


# -- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("modulated", [True, False])
def test_grad(modulated):
    """Numeric gradients of the image, offsets, mask, weight and bias.

    The layer computes in 32-bit numbers, so the steps are wide, 0.02 cells. Between whole cells
    the output is linear in each number alone, so a wide step is as good as a narrow one: every
    sample keeps 0.2 cells from the next one.
    """
    cls = ModulatedDeformConv if modulated else DeformConv
    conv = cls(2, 2, (2, 3), bias=True, padding=1, stride=2, deformable_groups=2)
    x, offset, mask = random_inputs(conv, size=(3, 4))
    offset = offset.floor() + 0.2 + 0.6 * torch.rand_like(offset)

    def call(x, offset, weight, bias, *mask):
        parameters = {"weight": weight.float(), "bias": bias.float()}
        return functional_call(conv, parameters, (x, offset, *mask))

    inputs = [x, offset, conv.weight, conv.bias, *([mask] if modulated else [])]
    inputs = [value.detach().double().requires_grad_() for value in inputs]
    assert call(*inputs).abs().sum() > 0
    assert gradcheck(call, inputs, eps=0.02, atol=1e-3, rtol=1e-3, nondet_tol=1e-5)


def test_gradients_reach_offset_and_mask():
    """Both parts of the offset convolution learn, from its first step on."""
    torch.manual_seed(0)
    layer = DFConv2d(3, 4, 3, padding=1)
    layer(torch.randn(2, 3, 6, 6)).square().sum().backward()
    for parameter in (*layer.conv.parameters(), *layer.offset.parameters()):
        assert parameter.grad.isfinite().all()
    for part in (layer.offset.weight.grad, layer.offset.bias.grad):
        assert (part.flatten(1).abs().sum(1) if part.ndim > 1 else part.abs()).min() > 0
    assert layer.conv.weight.grad.abs().min() > 0 and layer.conv.bias.grad.abs().min() > 0


# -- the convolution that predicts ---------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_are_offsets_then_mask(groups):
    """Weights 0 and bias 0, 1, 2, ...: the first 18 G channels come as they are, the last 9 G
    through a sigmoid.
    """
    predictor = OffsetConv(ModulatedDeformConv(4, 6, 3, padding=1, deformable_groups=groups))
    nn.init.zeros_(predictor.weight)
    predictor.bias.data = torch.arange(27.0 * groups) - 20 * groups
    offset, mask = predictor(torch.rand(2, 4, 3, 5))
    assert offset.shape == (2, 18 * groups, 3, 5) and mask.shape == (2, 9 * groups, 3, 5)
    assert torch.equal(offset[1, :, 2, 3], predictor.bias[: 18 * groups])
    assert torch.equal(mask[1, :, 2, 3], predictor.bias[18 * groups :].sigmoid())


def test_unmodulated_has_offsets_only():
    predictor = OffsetConv(DeformConv(4, 6, 3, padding=1, deformable_groups=2))
    (offset,) = predictor(torch.rand(2, 4, 3, 5))
    assert offset.shape == (2, 36, 3, 5) and torch.equal(predictor.bias, torch.zeros(36))


@pytest.mark.parametrize("kwargs", SETTINGS, ids=str)
def test_predictions_have_the_size_of_the_output(kwargs):
    """Its stride, padding and dilation are those of the deformable convolution; its groups 1."""
    layer = DFConv2d(4, 8, 3, **kwargs)
    x = torch.rand(2, 4, 7, 9)
    groups = layer.conv.deformable_groups
    size = F.conv2d(x, torch.zeros(1, 4, 3, 3), None, *conv_places(layer.conv)).shape[2:]
    offset, mask = layer.offset(x)
    assert offset.shape == (2, 18 * groups, *size) and mask.shape == (2, 9 * groups, *size)
    assert layer(x).shape == (2, 8, *size)
    assert layer.offset.weight.shape == (27 * groups, 4, 3, 3)
    assert conv_places(layer.offset) == conv_places(layer.conv)


def test_silent_predictions_give_half_a_convolution():
    """No offsets and masks of sigmoid(0) = 1/2; the bias counts in full."""
    torch.manual_seed(0)
    layer = DFConv2d(3, 4, 3, padding=1)
    nn.init.zeros_(layer.offset.weight)
    nn.init.normal_(layer.conv.bias)
    x = torch.randn(2, 3, 5, 6)
    expected = F.conv2d(x, layer.conv.weight / 2, layer.conv.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_predictions_are_used():
    """y = conv(x, offset, mask) with what the other convolution says of the same x."""
    torch.manual_seed(0)
    layer = DFConv2d(3, 4, 3, padding=1)
    nn.init.normal_(layer.offset.bias)
    x = torch.randn(1, 3, 5, 6)
    raw = F.conv2d(x, layer.offset.weight, layer.offset.bias, padding=1)
    expected = layer.conv(x, raw[:, :18], raw[:, 18:].sigmoid())
    torch.testing.assert_close(layer(x), expected)
    assert raw.abs().mean() > 0.3


# -- initial values, keys, numbers of parameters -------------------------------------------------


def test_initial_values():
    """16 channels, so a fan-in of 144.

    Weight: within 1 / sqrt(144) = 1/12; of a uniform distribution, the standard deviation is the
    bound / sqrt(3) = 0.0481. Predictor: variance 1 / 144, standard deviation 0.0833, within
    sqrt(3) / 12 = 0.1443. All biases 0.
    """
    torch.manual_seed(0)
    layer = DFConv2d(16, 32, 3)
    for weight, bound in ((layer.conv.weight, 1 / 12), (layer.offset.weight, math.sqrt(3) / 12)):
        assert 0.98 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert (layer.conv.bias == 0).all() and (layer.offset.bias == 0).all()
    assert (DeformConv(16, 32, 3, bias=True).bias == 0).all()


def test_fan_in_of_groups():
    """16 channels in 4 groups: a fan-in of 4 * 9 = 36, so weights within 1/6."""
    torch.manual_seed(0)
    weight = ModulatedDeformConv(16, 32, 3, groups=4).weight
    assert weight.shape == (32, 4, 3, 3) and 0.98 / 6 < weight.abs().max() <= 1 / 6


def test_keys_and_parameters():
    """At 256 channels: 27 * 256 * 9 + 27 = 62,235 for the prediction, 256 * 256 * 9 + 256 else."""
    with torch.device("meta"):
        layer = DFConv2d(256, 256, 3, padding=1)
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert shapes == {
        "conv.weight": (256, 256, 3, 3),
        "conv.bias": (256,),
        "offset.weight": (27, 256, 3, 3),
        "offset.bias": (27,),
    }
    assert sum(p.numel() for p in layer.offset.parameters()) == 62_235
    assert sum(p.numel() for p in layer.conv.parameters()) == 590_080


@pytest.mark.parametrize(("cls", "expected"), [(DeformConv, False), (ModulatedDeformConv, True)])
def test_bias_by_default(cls, expected):
    """Only the modulated one has a bias unless told."""
    assert (cls(2, 2, 3).bias is not None) is expected
    assert (cls(2, 2, 3, bias=not expected).bias is not None) is not expected


# -- norm, activation, numbers' formats, empty input ---------------------------------------------


@pytest.mark.parametrize("cls", [DeformConv, ModulatedDeformConv])
def test_norm_then_activation(cls):
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 4)
    nn.init.constant_(norm.bias, -0.3)
    conv = cls(4, 4, 3, padding=1, norm=norm, activation=torch.relu)
    inputs = random_inputs(conv, images=2)
    y = conv(*inputs)
    assert {key for key in conv.state_dict() if "norm" in key} == {"norm.weight", "norm.bias"}
    conv.activation = None
    normalised = conv(*inputs)
    conv.norm = None
    torch.testing.assert_close(normalised, norm(conv(*inputs)))
    assert torch.equal(y, normalised.relu()) and (normalised < 0).any() and (y > 0).any()


def test_norm_of_the_pair():
    """DFConv2d hands norm and activation to its deformable convolution."""
    layer = DFConv2d(4, 4, 3, padding=1, bias=False, norm=nn.GroupNorm(2, 4), activation=torch.relu)
    assert set(layer.state_dict()) == {
        "conv.weight",
        "conv.norm.weight",
        "conv.norm.bias",
        "offset.weight",
        "offset.bias",
    }
    assert layer(torch.randn(1, 4, 5, 5)).min() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("modulated", [True, False])
def test_low_precision_input(dtype, modulated):
    """Computed in 32-bit numbers, rounded once, given back as it came; gradients too."""
    conv = (ModulatedDeformConv if modulated else DeformConv)(4, 4, 3, padding=1)
    inputs = [value.to(dtype) for value in random_inputs(conv)[: 2 + modulated]]
    expected = conv(*(value.float() for value in inputs))
    inputs[0].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(*inputs)
        assert y.dtype == dtype
        assert torch.equal(y, expected.to(dtype))
        y.sum().backward()
    assert inputs[0].grad.dtype == dtype and inputs[0].grad.isfinite().all()
    assert conv.weight.grad.dtype == torch.float32 and conv.weight.grad.abs().sum() > 0
    assert torch.equal(conv(*inputs), y)  # without autocast too


def test_autocast():
    """Positions and masks are float32 and exact; the output has the image's precision."""
    torch.manual_seed(0)
    layer = DFConv2d(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 6, 6)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {part.dtype for part in layer.offset(x.bfloat16())} == {torch.float32}
        y, rounded = layer(x), layer(x.bfloat16())
    assert y.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    torch.testing.assert_close(rounded.float(), expected, rtol=0.05, atol=0.05)


def test_positions_keep_32_bit_numbers():
    """(dy, dx) = (0, 0.3) on cells 0 and 1024: 307.2. In bfloat16, 0.3 would read 308.0."""
    x = torch.tensor([[[[0.0, 1024]]]])
    conv = center_conv()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x, offsets_of(conv, x, {4: (0, 0.3)}))
    assert y[0, 0, 0, 0].item() == pytest.approx(307.2, abs=1e-3)


@pytest.mark.parametrize("cls", [DeformConv, ModulatedDeformConv])
def test_empty_batch(cls):
    conv = cls(3, 4, 3, padding=1, stride=2)
    predictor = OffsetConv(conv)
    x = torch.zeros(0, 3, 6, 8, requires_grad=True)
    y = conv(x, *predictor(x))
    assert y.shape == (0, 4, 3, 4) and y.dtype == torch.float32
    y.sum().backward()
    assert x.grad.shape == x.shape
    for parameter in (*conv.parameters(), *predictor.parameters()):
        assert (parameter.grad == 0).all()


def test_map_of_one_cell():
    """Only the middle of the kernel meets the cell: 5 * 2 * 1/2 + bias 1 = 6."""
    layer = DFConv2d(1, 1, 3, padding=1)
    nn.init.zeros_(layer.offset.weight)
    nn.init.constant_(layer.conv.weight, 2.0)
    nn.init.ones_(layer.conv.bias)
    assert layer(torch.full((1, 1, 1, 1), 5.0)).item() == 6


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [DeformConv, ModulatedDeformConv, DFConv2d])
@pytest.mark.parametrize("groups", [0, -1, 3, 8])
def test_deformable_groups_divide_the_channels(cls, groups):
    with pytest.raises(ValueError, match=f"deformable_groups .*in_channels 4; got {groups}"):
        cls(4, 6, 3, deformable_groups=groups)


def test_groups_divide_the_channels():
    with pytest.raises(ValueError, match="divisible by groups"):
        ModulatedDeformConv(4, 6, 3, groups=3)


def test_modulated_needs_a_mask():
    conv = ModulatedDeformConv(4, 4, 3, padding=1)
    x, offset, _ = random_inputs(conv)
    with pytest.raises(TypeError, match="mask"):
        conv(x, offset)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("offset channels", "offset must have 18 channels for deformable_groups 1; got 17"),
        ("mask channels", "mask must have 9 channels for deformable_groups 1; got 8"),
        ("groups", "offset must have 36 channels for deformable_groups 2; got 18"),
        ("offset size", None),
    ],
)
def test_inputs_that_do_not_fit(broken, message):
    conv = ModulatedDeformConv(4, 4, 3, padding=1)
    x, offset, mask = random_inputs(conv)
    if broken == "offset channels":
        offset = offset[:, :-1]
    elif broken == "mask channels":
        mask = mask[:, :-1]
    elif broken == "groups":
        conv.deformable_groups = 2
    else:
        offset = offset[..., :-1]
    with pytest.raises(ValueError if message else RuntimeError, match=message):
        conv(x, offset, mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_layers_of_other_precision(dtype):
    """model.double(), .bfloat16() and .half() work; the first keeps all its digits."""
    torch.manual_seed(0)
    conv = DFConv2d(4, 6, 3, padding=1)
    x = torch.randn(2, 4, 5, 6)
    expected = conv(x)
    actual = conv.to(dtype)(x.to(dtype))
    assert actual.dtype == dtype
    assert torch.allclose(actual.float(), expected, atol=0.05, rtol=0.05)
    if dtype == torch.float64:
        inputs = torch.randn(1, 4, 4, 4, dtype=dtype, requires_grad=True)
        assert torch.autograd.gradcheck(conv, inputs, atol=1e-4, nondet_tol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("deformable_groups", [1, 3])
@pytest.mark.parametrize("modulated", [False, True])
def test_equals_torchvision_with_gradients(groups, deformable_groups, modulated):
    """On a CPU the samples are read by grid_sample; torchvision's operator is the reference."""
    torch.manual_seed(0)
    kind = ModulatedDeformConv if modulated else DeformConv
    conv = kind(6, 4, 3, 2, 1, 2, groups, deformable_groups).double()
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(2, 18 * deformable_groups, 4, 3, dtype=torch.float64) * 3
    mask = torch.rand(2, 9 * deformable_groups, 4, 3, dtype=torch.float64) if modulated else None
    inputs = [x, offset.requires_grad_(), conv.weight]
    inputs += [conv.bias, mask.requires_grad_()] if modulated else []
    ours = conv(x, offset, mask) if modulated else conv(x, offset)
    theirs = ops.deform_conv2d(x, offset, conv.weight, conv.bias, (2, 2), (1, 1), (2, 2), mask)
    assert torch.allclose(ours, theirs)
    weight = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(a, b)
