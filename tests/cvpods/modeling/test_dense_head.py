"""DenseHead: deformable last convolutions of the towers, and the bias that boxes start from."""

import math

import pytest
import torch
from torch import nn

from cvpods.layers import DeformConv, DFConv2d, ModulatedDeformConv, OffsetConv
from cvpods.modeling.meta_arch import DenseHead
from cvpods.utils.errors import ConfigError

TOWERS = ("cls_subnet", "bbox_subnet")


def make_head(**kwargs):
    """Return a head with 64 channels, so that GroupNorm's 32 groups have two each."""
    torch.manual_seed(0)
    return DenseHead(**{"in_channels": 64, "num_convs": 2, "num_classes": 3, **kwargs})


def towers(head):
    return [getattr(head, name) for name in TOWERS]


@pytest.mark.parametrize(
    ("norm", "plain", "last"), [("GN", [0, 1, 3, 4, 6, 7, 10], 9), ("", [0, 2, 4], 6)]
)
def test_keys(norm, plain, last):
    """Four convolutions; with a norm each is three layers (9: the last one, 10: its norm)."""
    head = make_head(num_convs=4, norm=norm, deformable=True, quality="centerness")
    names = [f"{tower}.{i}" for tower in TOWERS for i in plain]
    names += [f"{tower}.{last}.{part}" for tower in TOWERS for part in ("conv", "offset")]
    names += ["cls_score", "bbox_pred", "centerness"]
    assert set(head.state_dict()) == {f"{n}.{p}" for n in names for p in ("weight", "bias")}


@pytest.mark.parametrize("num_convs", [1, 4])
@pytest.mark.parametrize("norm", ["GN", ""])
def test_last_convolution_deforms(num_convs, norm):
    """And no other one; norm and ReLU follow it as they follow the others."""
    head = make_head(num_convs=num_convs, norm=norm, deformable=True)
    following = ([nn.GroupNorm] if norm else []) + [nn.ReLU]
    for tower in towers(head):
        kinds = [nn.Conv2d, *following] * (num_convs - 1) + [DFConv2d, *following]
        assert [type(layer) for layer in tower] == kinds
        deformable = tower[-len(following) - 1]
        assert deformable.conv.deformable_groups == 1 and deformable.offset.out_channels == 27
        assert deformable.conv.padding == (1, 1) and deformable.conv.stride == (1, 1)
    deforming = [m for m in head.modules() if isinstance(m, DeformConv)]
    assert len(deforming) == 2 and {type(m) for m in deforming} == {ModulatedDeformConv}


def test_nothing_deforms_by_default():
    assert not any(isinstance(m, (DeformConv, OffsetConv)) for m in make_head().modules())


def test_parameters():
    """A prediction from 256 channels has 27 * 9 * 256 + 27 = 62,235 parameters; two: 124,470."""
    with torch.device("meta"):
        plain, deformable = (
            DenseHead(in_channels=256, num_convs=4, num_classes=80, norm="GN", deformable=on)
            for on in (False, True)
        )
    count = [sum(p.numel() for p in head.parameters()) for head in (plain, deformable)]
    assert count[1] - count[0] == 124_470


def test_initial_values():
    """Ordinary convolutions and predictions: N(0, 0.01), bias 0.

    Of 20,736 values of a normal distribution, the largest is near 4 deviations. The deformable
    weight stays uniform within 1 / sqrt(64 * 9) = 1/24, deviation 1 / (24 sqrt(3)) = 0.0241.
    """
    head = make_head(norm="GN", deformable=True, prior_prob=0.02)
    for tower in towers(head):
        last = tower[3]
        for conv in (tower[0], last.offset):
            assert conv.weight.std().item() == pytest.approx(0.01, rel=0.03)
            assert 0.03 < conv.weight.abs().max() < 0.06 and (conv.bias == 0).all()
        assert 0.98 / 24 < last.conv.weight.abs().max() <= 1 / 24
        assert last.conv.weight.std().item() == pytest.approx(0.0241, rel=0.03)
        assert (last.conv.bias == 0).all()
    assert torch.allclose(head.cls_score.bias.sigmoid(), torch.tensor(0.02))


@pytest.mark.parametrize("norm", ["GN", ""])
def test_silent_predictions_halve_the_convolution(norm):
    """Without offsets and with masks of 1/2, a plain head with half the last weights."""
    head = make_head(norm=norm, deformable=True, quality="centerness", num_scales=2)
    plain = make_head(norm=norm, quality="centerness", num_scales=2)
    state = head.state_dict()
    for name in list(state):
        if ".offset." in name:
            nn.init.zeros_(state.pop(name))
        elif ".conv." in name:
            value = state.pop(name)
            nn.init.normal_(value, std=0.02)
            state[name.replace(".conv.", ".")] = value / 2 if value.ndim == 4 else value
    plain.load_state_dict(state)
    features = [torch.randn(2, 64, side, side + 1) for side in (5, 2)]
    with torch.no_grad():
        found, expected = head(features), plain(features)
    assert {name: [x.shape for x in maps] for name, maps in found.items()} == {
        name: [x.shape for x in maps] for name, maps in expected.items()
    }
    for name in ("cls_logits", "box_deltas", "centerness"):
        for ours, theirs in zip(found[name], expected[name], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
            assert ours.std() > 0


def test_offsets_move_what_the_tower_sees():
    """One column to the right everywhere: the same as the map moved one column to the left.

    At the right border, beyond it is 0 for both; the left border has seen what the map lost.
    """
    head = make_head(num_convs=1, deformable=True)
    for tower in towers(head):
        nn.init.zeros_(tower[0].offset.weight)
    feature = torch.randn(1, 64, 4, 6)
    moved = torch.cat([feature[..., 1:], torch.zeros(1, 64, 4, 1)], dim=3)
    expected = [tower(moved) for tower in towers(head)]
    for tower in towers(head):
        tower[0].offset.bias.data[1:18:2] = 1.0  # (dy, dx) pairs
    found = [tower(feature) for tower in towers(head)]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[..., 1:], theirs[..., 1:], rtol=1e-3, atol=1e-5)
        assert (ours[..., 1:] > 0).any()


def test_every_parameter_learns():
    head = make_head(norm="GN", deformable=True, quality="centerness", num_scales=2)
    outputs = head([torch.randn(2, 64, 6, 6), torch.randn(2, 64, 3, 3)])
    sum(x.square().sum() for maps in outputs.values() for x in maps).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_bfloat16_autocast():
    """The predictions stay near those of 32-bit numbers, and gradients are finite."""
    head = make_head(norm="GN", deformable=True)
    feature = torch.randn(1, 64, 6, 6)
    expected = head([feature])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head([feature])
        sum(maps[0].float().square().sum() for maps in found.values()).backward()
    for name in expected:
        torch.testing.assert_close(found[name][0].float(), expected[name][0], rtol=0.05, atol=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_one_cell_and_an_empty_batch():
    head = make_head(norm="GN", deformable=True).eval()
    assert head([torch.randn(1, 64, 1, 1)])["box_deltas"][0].shape == (1, 4, 1, 1)
    head = make_head(deformable=True)
    assert head([torch.zeros(0, 64, 3, 3)])["cls_logits"][0].shape == (0, 3, 3, 3)


# -- the bias of the boxes -----------------------------------------------------------------------


@pytest.mark.parametrize("deformable", [False, True])
def test_box_bias(deformable):
    """On features of 0 every box output is the bias; other biases are as ever.

    -log(0.99 / 0.01) = -4.595.
    """
    head = make_head(num_anchors=2, quality="centerness", box_bias=4.0, deformable=deformable)
    outputs = head([torch.zeros(1, 64, 3, 3)])
    assert torch.equal(outputs["box_deltas"][0], torch.full((1, 8, 3, 3), 4.0))
    assert (outputs["centerness"][0] == 0).all()
    assert torch.allclose(outputs["cls_logits"][0], torch.tensor(-math.log(99)))
    assert head.bbox_pred.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_box_bias_is_0_by_default():
    assert torch.equal(make_head().bbox_pred.bias, torch.zeros(4))


def test_a_tower_without_convolutions_cannot_deform():
    with pytest.raises(ConfigError, match="NUM_CONVS must be at least 1 .*; got 0"):
        make_head(num_convs=0, deformable=True)
