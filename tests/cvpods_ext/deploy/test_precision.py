"""Norms folded into convolutions change nothing; FP16 leaves the delicate parts alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cvpods.layers import Conv2d, FrozenBatchNorm2d, ModulatedDeformConv
from cvpods.structures import ImageList
from cvpods_ext.deploy.precision import fold_batch_norms, to_half
from cvpods_ext.deploy.verify import difference
from tests.cvpods_ext.deploy.small import EXPERIMENTS, small_detector

IMAGES = ImageList(
    torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0)), [(96, 128)] * 2
)


def randomise_norms(model):
    """Statistics that matter."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.weight.data, 0.5, 1.5)
            nn.init.normal_(module.bias.data, std=0.2)


def maps_of(model):
    with torch.inference_mode():
        return {
            f"{n}{i}": m.float()
            for n, maps in model.network(IMAGES).items()
            for i, m in enumerate(maps)
        }


def worst(found, wanted):
    return max(difference(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("method", EXPERIMENTS)
def test_folded_norms_change_nothing(method):
    model = small_detector(method)
    randomise_norms(model)
    wanted = maps_of(model)
    fold_batch_norms(model)
    kinds = (FrozenBatchNorm2d, nn.BatchNorm2d)
    assert not [name for name, module in model.named_modules() if isinstance(module, kinds)]
    assert worst(maps_of(model), wanted) < 1e-4


def test_fold_by_hand():
    """1x1 convolution 2x, norm (y - 3) / sqrt(4) * 5 + 1: weight 2 * 5 / 2 = 5, bias 1 - 7.5."""
    norm = FrozenBatchNorm2d(1, eps=0.0)
    for name, value in (
        ("running_mean", 3.0),
        ("running_var", 4.0),
        ("weight", 5.0),
        ("bias", 1.0),
    ):
        getattr(norm, name).fill_(value)
    conv = Conv2d(1, 1, 1, bias=False, norm=norm)
    nn.init.constant_(conv.weight, 2.0)
    model = nn.Sequential(conv)
    fold_batch_norms(model)
    assert conv.norm is None and conv.weight.item() == 5.0 and conv.bias.item() == -6.5


def test_fold_into_a_deformable_convolution():
    conv = ModulatedDeformConv(4, 4, 3, padding=1, bias=False, norm=FrozenBatchNorm2d(4)).eval()
    randomise_norms(conv)
    x, offset, mask = torch.randn(1, 4, 6, 6), torch.randn(1, 18, 6, 6), torch.rand(1, 9, 6, 6)
    with torch.no_grad():
        wanted = conv(x, offset, mask)
        fold_batch_norms(nn.ModuleList([conv]))
        assert conv.norm is None
        torch.testing.assert_close(conv(x, offset, mask), wanted)


@pytest.mark.parametrize("method", EXPERIMENTS)
def test_half(method):
    """In PyTorch too, FP16 is close to FP32; convolutions are FP16 and norms are not."""
    model = small_detector(method)
    wanted = maps_of(model)
    fold_batch_norms(model)
    to_half(model)
    assert 1e-6 < worst(maps_of(model), wanted) < 5e-2
    for name, module in model.named_modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)):
            assert all(p.dtype == torch.float32 for p in module.parameters()), name
        elif type(module) in (nn.Conv2d, Conv2d) and "encoder" not in name:
            assert module.weight.dtype == torch.float16, name


def test_norms_of_large_maps_do_not_overflow():
    """Values of 300: their squares exceed 65,504, FP16's largest number."""
    model = small_detector("free_anchor")
    norm = next(m for m in model.head.modules() if isinstance(m, nn.GroupNorm))
    plain = copy.deepcopy(norm)
    to_half(model)
    x = 300 * torch.randn(1, norm.num_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    found = norm(x.half())
    assert found.dtype == torch.float16 and found.isfinite().all()
    torch.testing.assert_close(found.float(), plain(x), atol=0.01, rtol=0.01)
