"""Attention on the top map of a pyramid: position code, layer, encoder, pyramid; by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvpods.layers import ShapeSpec
from cvpods.modeling.backbone import FPN, Backbone
from cvpods.modeling.backbone.fpn import LastLevelP6P7, build_p3_p7_pyramid
from cvpods.structures import ImageList
from cvpods.utils.errors import ConfigError
from cvpods_ext.methods.feature_align import (
    FeatureAlignConfig,
    build_mobilenetv2_attention_fpn_p3_p7,
    build_resnet_attention_fpn_p3_p7,
)
from cvpods_ext.methods.feature_align.attention import (
    AttentionEncoder,
    AttentionFPN,
    EncoderLayer,
    padding_mask,
    sine_position,
)

SMALL: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "feedforward_dim": 24}
STAGES = {"res3": 8, "res4": 16, "res5": 32}
# Of a padded batch of 96 x 128 pixels, 3 x 4 cells of res5: two images, one all of it.
SIZES = [(70, 96), (96, 128)]


class PointwiseBackbone(Backbone):
    """Means of 8 x 8, 16 x 16 and 32 x 32 pixels, times a matrix: black cells stay 0."""

    def __init__(self, channels: tuple[int, int, int] = (4, 4, 16), gain: float = 1.0) -> None:
        super().__init__()
        self._out_features = list(STAGES)
        self._out_feature_strides = STAGES
        self._out_feature_channels = dict(zip(STAGES, channels, strict=True))
        for name, count in self._out_feature_channels.items():
            self.add_module(name, nn.Conv2d(3, count, 1, bias=False))
            nn.init.normal_(getattr(self, name).weight, std=gain)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {k: getattr(self, k)(F.avg_pool2d(x, stride)) for k, stride in STAGES.items()}


def pyramid(
    out_channels: int = 8, bottom_up: Backbone | None = None, norm: str = "", **attention: Any
) -> AttentionFPN:
    torch.manual_seed(0)
    return AttentionFPN(
        bottom_up or PointwiseBackbone(),
        list(STAGES),
        out_channels,
        norm=norm,
        top_block=LastLevelP6P7(out_channels, out_channels, "p5"),
        attention={**SMALL, **attention},
    )


def encoder(channels: int = 8, **arguments: Any) -> AttentionEncoder:
    torch.manual_seed(0)
    return AttentionEncoder(channels, **{**SMALL, **arguments})


def images(sizes: list[tuple[int, int]], seed: int = 0, divisibility: int = 32) -> ImageList:
    random = torch.Generator().manual_seed(seed)
    one_by_one = [torch.rand(3, *size, generator=random) + 0.5 for size in sizes]
    return ImageList.from_tensors(one_by_one, divisibility)


def inside_cells(sizes: list[tuple[int, int]], height: int, width: int) -> Tensor:
    """(N, H, W) bool: cells of 32 x 32 pixels that begin within their image."""
    return torch.tensor(
        [
            [[32 * y < h and 32 * x < w for x in range(width)] for y in range(height)]
            for h, w in sizes
        ]
    )


# -- padding -------------------------------------------------------------------------------------


def test_padding_mask_by_hand():
    """Images of 2 x 3 and 3 x 1 pixels in a batch of 3 x 4."""
    given = ImageList.from_tensors([torch.ones(3, 2, 3), torch.ones(3, 3, 1)])
    given = ImageList(F.pad(given.tensor, (0, 1)), given.image_sizes)
    mask = padding_mask(given)
    assert mask.dtype == torch.bool and mask.shape == (2, 3, 4)
    assert mask.int().tolist() == [
        [[0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]],
        [[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]],
    ]


def test_padding_mask_is_where_images_are_padded():
    given = images([(70, 60), (33, 96), (96, 64)])
    assert torch.equal(padding_mask(given), (given.tensor == 0).all(dim=1))
    whole = images([(64, 96)])
    assert not padding_mask(whole).any() and padding_mask(whole).shape == (1, 64, 96)


# -- the position code ---------------------------------------------------------------------------


def sine_loop(height: int, width: int, y: int, x: int, channels: int) -> list[float]:
    """DETR's code of row y and column x, both from 0, of an image of so many cells."""
    half, code = channels // 2, []
    for place, size in ((y + 1, height), (x + 1, width)):
        angle = place / (size + 1e-6) * 2 * math.pi
        for i in range(half):
            phase = angle / 10000 ** (2 * (i // 2) / half)
            code.append(math.cos(phase) if i % 2 else math.sin(phase))
    return code


@pytest.mark.parametrize("channels", [4, 8, 20])
def test_sine_position_matches_the_loop(channels):
    """Each image by its own size."""
    sizes = [(3, 5), (2, 5), (3, 1), (1, 2)]
    mask = torch.ones(4, 3, 5, dtype=torch.bool)
    for n, (height, width) in enumerate(sizes):
        mask[n, :height, :width] = False
    position = sine_position(mask, channels)
    assert position.shape == (4, 15, channels) and position.dtype == torch.float32
    for n, (height, width) in enumerate(sizes):
        for y in range(height):
            for x in range(width):
                expected = sine_loop(height, width, y, x, channels)
                found = position[n, 5 * y + x].tolist()
                assert found == pytest.approx(expected, abs=1e-5), (n, y, x)


def test_sine_position_by_hand():
    """Two rows, one column, 4 channels: y = pi and 2 pi, x = 2 pi; sin and cos of each."""
    position = sine_position(torch.zeros(1, 2, 1, dtype=torch.bool), 4)
    expected = torch.tensor([[[0.0, -1, 0, 1], [0, 1, 0, 1]]])
    torch.testing.assert_close(position, expected, rtol=0, atol=1e-5)


def test_sine_position_in_the_encoders_width():
    """1024 channels for y alone, 1024 for x alone; every cell has a code of its own."""
    position = sine_position(torch.zeros(1, 4, 6, dtype=torch.bool), 2048).view(4, 6, 2048)
    assert (position[:, :1, :1024] == position[..., :1024]).all()
    assert (position[:1, :, 1024:] == position[..., 1024:]).all()
    assert torch.cdist(*[position.flatten(0, 1)] * 2).fill_diagonal_(9).min() > 1


def test_temperature():
    """One row and column, 8 channels: 2 pi, and 2 pi / sqrt(temperature)."""
    position = sine_position(torch.zeros(1, 1, 1, dtype=torch.bool), 8, temperature=16.0)
    expected = [0, 1, math.sin(math.pi / 2), math.cos(math.pi / 2)] * 2
    assert position.flatten().tolist() == pytest.approx(expected, abs=1e-5)


# -- one layer -----------------------------------------------------------------------------------


def layer_by_hand(
    layer: EncoderLayer, tokens: Tensor, position: Tensor, padding: Tensor | None
) -> Tensor:
    """Of one image (T, C): softmax attention in matrices, post-norm, ReLU; no dropout."""
    attention, width = layer.self_attn, tokens.shape[1]
    matrices, biases = attention.in_proj_weight.split(width), attention.in_proj_bias.split(width)
    inputs = (tokens + position, tokens + position, tokens)
    q, k, v = (x @ m.T + b for x, m, b in zip(inputs, matrices, biases, strict=True))
    heads = []
    size = width // attention.num_heads
    for h in range(attention.num_heads):
        part = slice(h * size, (h + 1) * size)
        logits = q[:, part] @ k[:, part].T / math.sqrt(size)
        if padding is not None:
            logits[:, padding] = -math.inf
        heads.append(logits.softmax(dim=1) @ v[:, part])
    attended = torch.cat(heads, dim=1) @ attention.out_proj.weight.T + attention.out_proj.bias

    def norm(x: Tensor, by: nn.LayerNorm) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        std = (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        return centred / std * by.weight + by.bias

    tokens = norm(tokens + attended, layer.norm1)
    hidden = (tokens @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0)
    return norm(tokens + hidden @ layer.linear2.weight.T + layer.linear2.bias, layer.norm2)


def random_layer(dim: int = 8, heads: int = 2, **arguments: Any) -> EncoderLayer:
    """Every parameter at random, also those that start from 0 and 1."""
    torch.manual_seed(1)
    layer = EncoderLayer(dim, heads, 12, batch_first=True, **arguments).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7)
    return layer


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_layer_by_hand(padded, heads):
    layer = random_layer(heads=heads).eval()
    tokens, position = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:], padding[2, [0, 2]] = True, True
    found = layer(tokens, position, padding if padded else None)
    assert found.shape == (3, 5, 8)
    for n in range(3):
        mask = padding[n] if padded else None
        expected = layer_by_hand(layer, tokens[n], position[n], mask)
        torch.testing.assert_close(found[n], expected)


def test_position_is_not_in_the_values():
    """With queries of 0 all cells weigh the same: then the position changes nothing."""
    layer = random_layer().eval()
    tokens, position = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    assert not torch.allclose(layer(tokens, position, None), layer(tokens, 0 * position, None))
    with torch.no_grad():
        layer.self_attn.in_proj_weight[:8] = 0
        layer.self_attn.in_proj_bias[:8] = 0
    torch.testing.assert_close(layer(tokens, position, None), layer(tokens, 0 * position, None))


def test_attention_without_position_knows_no_order():
    layer = random_layer().eval()
    tokens, position = torch.randn(2, 1, 6, 8, dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    plain = layer(tokens, 0 * position, None)
    torch.testing.assert_close(layer(tokens[:, order], 0 * position, None), plain[:, order])
    coded = layer(tokens, position, None)
    assert not torch.allclose(layer(tokens[:, order], position, None), coded[:, order])
    torch.testing.assert_close(layer(tokens[:, order], position[:, order], None), coded[:, order])


def test_dropout_acts_where_it_should():
    """In training with p = 1 nothing is added to the tokens: two norms are all that is left."""
    layer = random_layer(dropout=1.0).train()
    tokens, position = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    normed = layer.norm2(layer.norm1(tokens))
    torch.testing.assert_close(layer(tokens, position, None), normed)
    assert not torch.allclose(layer.eval()(tokens, position, None), normed)
    # The dropout within the feed-forward part leaves the bias of its second matrix.
    only_inner = random_layer(dropout=0.0).train()
    only_inner.dropout.p = 1.0
    found = only_inner(tokens, position, None)
    nn.init.zeros_(only_inner.linear2.weight)
    torch.testing.assert_close(found, only_inner.eval()(tokens, position, None))


def test_parameters_of_the_published_width():
    """d = 2048, feed-forward 2048: 4 d^2 + 4 d of attention, 2 d^2 + 2 d, two norms of 2 d.

    6 * 4194304 + 10 * 2048 = 25186304 a layer.
    """
    with torch.device("meta"):
        published = AttentionEncoder(2048)
    assert sum(p.numel() for p in published.layers[0].parameters()) == 25_186_304
    assert sum(p.numel() for p in published.parameters()) == 75_558_912
    layer = published.layers[0]
    assert layer.self_attn.num_heads == 8 and layer.linear1.out_features == 2048
    dropouts = [m.p for m in layer.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [0.1] * 3 and layer.self_attn.dropout == 0.1


# -- the encoder ---------------------------------------------------------------------------------


def test_matrices_start_from_xavier():
    """Uniform in +-sqrt(6 / (rows + columns)); biases of attention 0, norms 1 and 0."""
    names = []
    for name, parameter in encoder(16, feedforward_dim=64).layers.named_parameters():
        if parameter.dim() > 1:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.97 * bound < parameter.abs().max() <= bound, name
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
            names.append(name.split(".", 1)[1])
        elif "self_attn" in name or "norm" in name:
            assert (parameter == float("norm" in name and "weight" in name)).all(), name
    assert len(names) == 2 * 4 and len(set(names)) == 4


def test_layers_start_differently():
    first, second = encoder().layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


@pytest.mark.parametrize("dim", [None, 12])
def test_encoder_is_its_layers(dim):
    """Position of each image's own size, the mask of its cells, and one layer after the other."""
    model = encoder(dim=dim, num_layers=3).double().eval()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    found = model(x, padding_mask(images(SIZES)))
    assert found.shape == (2, dim or 8, 3, 4)
    cells = inside_cells(SIZES, 3, 4)
    position = sine_position(~cells, dim or 8).double()
    for n in range(2):
        tokens = x[n] if dim is None else model.input_proj(x[n : n + 1])[0]
        tokens, outside = tokens.flatten(1).T, ~cells[n].flatten()
        for layer in model.layers:
            tokens = layer_by_hand(layer, tokens, position[n], outside)
        expected = tokens.masked_fill(outside[:, None], 0)
        torch.testing.assert_close(found[n].flatten(1).T, expected)


def test_padded_cells_change_nothing():
    """Garbage in the padding, a larger canvas, other images of the batch; they come out as 0."""
    model = encoder().eval()
    x = torch.randn(2, 8, 3, 4)
    mask = padding_mask(images(SIZES))
    cells = inside_cells(SIZES, 3, 4)
    assert (~cells[0]).sum() == 3 and cells[1].all()
    expected = model(x, mask)
    assert (expected[0, :, ~cells[0]] == 0).all() and (expected[0, :, cells[0]] != 0).all()

    garbage = torch.where(cells[:, None], x, 1e4 * torch.randn(x.shape))
    torch.testing.assert_close(model(garbage, mask), expected)

    canvas = F.pad(x, (0, 3, 0, 2), value=7.0)
    larger = model(canvas, F.pad(mask, (0, 96, 0, 64), value=True))
    torch.testing.assert_close(larger[..., :3, :4], expected)
    assert (larger[..., 3:, :] == 0).all() and (larger[..., 4:] == 0).all()

    alone = model(x[:1, ..., :3], mask[:1, :, :96])
    torch.testing.assert_close(alone, expected[:1, ..., :3])


def test_every_cell_sees_every_other():
    model = encoder().eval()
    x = torch.randn(1, 8, 3, 4)
    other = x.clone()
    other[..., 2, 3] += 1
    assert ((model(x) - model(other)).abs().amax(dim=1) > 1e-6).all()


def test_no_mask_is_a_mask_of_nothing():
    model = encoder().eval()
    x = torch.randn(2, 8, 3, 4)
    nothing = torch.zeros(2, 96, 128, dtype=torch.bool)
    torch.testing.assert_close(model(x), model(x, nothing))
    torch.testing.assert_close(model(x), model(x, nothing[:, ::32, ::32]))


def test_cell_is_padding_if_its_first_pixel_is():
    """Of 64 x 64 pixels and 2 x 2 cells: 33 rows reach into the second cell, 32 do not."""
    model = encoder().eval()
    x = torch.randn(1, 8, 2, 2)
    for height, reached in ((32, False), (33, True), (64, True)):
        found = model(x, padding_mask(ImageList(torch.zeros(1, 3, 64, 64), [(height, 64)])))
        assert (found[:, :, 1] != 0).any().item() is reached


def test_dropout_in_training_only():
    model = encoder(dropout=0.5)
    x = torch.randn(1, 8, 3, 4)
    assert not torch.allclose(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    without = encoder(dropout=0.0)
    torch.testing.assert_close(without.train()(x), without.eval()(x))


@pytest.mark.parametrize("padded", [False, True])
def test_gradients_reach_every_parameter(padded):
    model = encoder(dim=12).train()
    x = torch.randn(2, 8, 3, 4, requires_grad=True)
    mask = padding_mask(images(SIZES)) if padded else None
    found = model(x, mask)
    (found * torch.randn(found.shape)).sum().backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name
    assert x.grad.isfinite().all()
    moved = x.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, inside_cells(SIZES, 3, 4)) if padded else moved.all()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16(dtype, padded):
    """Inputs of float32, or of bfloat16 as a convolution under autocast makes them."""
    model = encoder(16).eval()
    x = torch.randn(2, 16, 3, 4)
    mask = padding_mask(images(SIZES)) if padded else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(x.to(dtype), mask)
    torch.testing.assert_close(found.float(), model(x, mask), rtol=0.1, atol=0.15)


@pytest.mark.parametrize(
    ("channels", "arguments", "message"),
    [
        (10, {}, "multiple of 4 and of NUM_HEADS 2; got None, a width of 10"),
        (8, {"dim": 6}, "MODEL.FEATURE_ALIGN.ATTENTION.DIM must be .* got 6, .* top map, 8"),
        (8, {"num_heads": 3}, "NUM_HEADS 3; got None, a width of 8"),
        (16, {"dim": 20, "num_heads": 8}, "NUM_HEADS 8; got 20"),
    ],
)
def test_widths_that_do_not_go(channels, arguments, message):
    with pytest.raises(ConfigError, match=message):
        encoder(channels, **arguments)


# -- the pyramid ---------------------------------------------------------------------------------


def test_pyramid_is_fpn_of_the_encoded_map():
    model = pyramid().eval()
    given = images(SIZES)
    levels = model(given.tensor, padding_mask(given))
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        f"p{level}": (2, 8, -(-96 // 2**level), -(-128 // 2**level)) for level in range(3, 8)
    }
    bottom_up = model.bottom_up(given.tensor)
    top = model.encoder(bottom_up["res5"], padding_mask(given))
    p5 = model.fpn_lateral5(top)
    p4 = model.fpn_lateral4(bottom_up["res4"]) + F.interpolate(p5, scale_factor=2.0)
    p3 = model.fpn_lateral3(bottom_up["res3"]) + F.interpolate(p4, scale_factor=2.0)
    expected = [getattr(model, f"fpn_output{i}")(p) for i, p in ((3, p3), (4, p4), (5, p5))]
    # P6 comes from P5, P7 from what of P6 is above 0.
    p6 = model.top_block.p6(expected[2])
    expected += [p6, model.top_block.p7(p6.clamp(min=0))]
    torch.testing.assert_close(list(levels.values()), expected)


def test_all_levels_see_the_attention():
    """A change in one corner of the image reaches the opposite corner of every level."""
    model = pyramid().eval()
    plain = FPN(model.bottom_up, list(STAGES), 8)
    plain.load_state_dict(model.state_dict(), strict=False)
    given = images([(192, 256)]).tensor
    other = given.clone()
    other[..., :32, :32] *= torch.tensor([3.0, 0.5, 1]).view(3, 1, 1)
    for level, far in model(given).items():
        assert (far - model(other)[level])[..., -1, -1].abs().max() > 1e-4, level
    for level, far in plain(given).items():
        assert torch.equal(far[..., -1, -1], plain(other)[level][..., -1, -1])


def test_padding_reaches_the_encoder():
    model = pyramid().eval()
    given = images(SIZES)
    levels = model(given.tensor, padding_mask(given))
    unaware = model(given.tensor)
    for level in levels:
        assert not torch.allclose(levels[level][0], unaware[level][0], atol=1e-3)
        torch.testing.assert_close(levels[level][1], unaware[level][1])


def keys_of_layer(index: int) -> set[str]:
    names = ["self_attn.out_proj", "linear1", "linear2", "norm1", "norm2"]
    keys = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    keys |= {"self_attn.in_proj_weight", "self_attn.in_proj_bias"}
    return {f"encoder.layers.{index}.{key}" for key in keys}


@pytest.mark.parametrize("dim", [None, 16, 12])
def test_state_dict_keys(dim):
    """FPN's, and the encoder's; a projection where a width is asked for."""
    keys = {f"bottom_up.{name}.weight" for name in STAGES}
    convs = [f"fpn_{part}{level}" for part in ("lateral", "output") for level in (3, 4, 5)]
    convs += ["top_block.p6", "top_block.p7"] + (["encoder.input_proj"] if dim else [])
    keys |= {f"{conv}.{part}" for conv in convs for part in ("weight", "bias")}
    assert set(pyramid(dim=dim).state_dict()) == keys | keys_of_layer(0) | keys_of_layer(1)


def test_width_of_the_encoder():
    """The lateral takes dim channels, and starts as FPN's do: +-sqrt(3 / dim), bias 0."""
    model = pyramid(dim=12, out_channels=64)
    assert model.encoder.input_proj.weight.shape == (12, 16, 1, 1)
    assert {len(layer.norm2.weight) for layer in model.encoder.layers} == {12}
    lateral = model.fpn_lateral5
    assert lateral.weight.shape == (64, 12, 1, 1) and (lateral.bias == 0).all()
    bound = math.sqrt(3 / 12)
    assert 0.95 * bound < lateral.weight.abs().max() <= bound
    assert model(images(SIZES).tensor)["p7"].shape == (2, 64, 1, 1)
    same = pyramid(out_channels=64)
    assert same.fpn_lateral5.weight.shape == (64, 16, 1, 1)
    assert isinstance(same.encoder.input_proj, nn.Identity)


def test_norm_of_the_lateral():
    for dim in (None, 12):
        lateral = pyramid(out_channels=32, norm="GN", dim=dim).fpn_lateral5
        assert isinstance(lateral.norm, nn.GroupNorm) and lateral.bias is None


def test_shapes_that_a_detector_reads():
    model = pyramid(dim=12)
    assert model.size_divisibility == 32
    assert model.output_shape() == {
        f"p{level}": ShapeSpec(channels=8, stride=2**level) for level in range(3, 8)
    }


def test_pyramid_trains_in_bfloat16():
    model = pyramid(dim=32, out_channels=16).train()
    given = images(SIZES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        levels = model(given.tensor, padding_mask(given))
        loss = sum(level.float().square().mean() for level in levels.values())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_top_block_on_the_top_map():
    """It would read what has not been attended to, in a width of its own."""
    with pytest.raises(ConfigError, match="BLOCK_IN_FEATURES must be a level.*not 'res5'"):
        AttentionFPN(
            PointwiseBackbone(),
            list(STAGES),
            8,
            top_block=LastLevelP6P7(16, 8, "res5"),
            attention=SMALL,
        )


def test_without_a_top_block():
    model = AttentionFPN(PointwiseBackbone(), ["res4", "res5"], 8, attention=SMALL)
    assert set(model(images(SIZES).tensor)) == {"p4", "p5"} and model.top_feature == "res5"


# -- from the config -----------------------------------------------------------------------------


def small_config(**attention: Any) -> FeatureAlignConfig:
    config = FeatureAlignConfig()
    config.MODEL.RESNETS.DEPTH = 18
    config.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    config.MODEL.FPN.OUT_CHANNELS = 16
    config.merge(MODEL={"FEATURE_ALIGN": {"ATTENTION": attention}})
    return config


def test_config_values_reach_the_encoder():
    values = {"DIM": 24, "NUM_LAYERS": 1, "NUM_HEADS": 6, "FEEDFORWARD_DIM": 10, "DROPOUT": 0.3}
    config = small_config(**values)
    config.merge(MODEL={"FPN": {"NORM": "GN", "OUT_CHANNELS": 32}})
    with torch.device("meta"):
        model = build_resnet_attention_fpn_p3_p7(config)
    assert isinstance(model, AttentionFPN) and model.top_feature == "res5"
    (layer,) = model.encoder.layers
    assert (model.encoder.dim, layer.self_attn.num_heads, layer.linear1.out_features) == (24, 6, 10)
    assert {m.p for m in layer.modules() if isinstance(m, nn.Dropout)} == {0.3}
    assert model.fpn_lateral5.weight.shape == (32, 24, 1, 1)
    assert isinstance(model.fpn_lateral5.norm, nn.GroupNorm)
    assert model.top_block.in_feature == "p5" and model.top_block.p6.in_channels == 32


@pytest.mark.parametrize(
    ("build", "width"),
    [(build_resnet_attention_fpn_p3_p7, 512), (build_mobilenetv2_attention_fpn_p3_p7, 320)],
)
def test_width_is_the_backbones_unless_asked_for(build, width):
    """Of ResNet-18, and of MobileNetV2."""
    with torch.device("meta"):
        model = build(small_config())
    assert isinstance(model, AttentionFPN) and model.encoder.dim == width
    assert model.fpn_lateral5.weight.shape == (16, width, 1, 1) and len(model.encoder.layers) == 3


@pytest.mark.parametrize("source", ["p5", "res5"])
def test_without_attention_it_is_fpn(source):
    config = small_config(ENABLED=False)
    config.MODEL.FPN.BLOCK_IN_FEATURES = source
    with torch.device("meta"):
        model = build_resnet_attention_fpn_p3_p7(config)
        expected = build_p3_p7_pyramid(config, model.bottom_up)
    assert type(model) is FPN
    shapes, expected = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, expected))
    assert shapes == expected


def test_top_map_as_source_from_the_config():
    config = small_config()
    config.MODEL.FPN.BLOCK_IN_FEATURES = "res5"
    with torch.device("meta"), pytest.raises(ConfigError, match="BLOCK_IN_FEATURES"):
        build_resnet_attention_fpn_p3_p7(config)
