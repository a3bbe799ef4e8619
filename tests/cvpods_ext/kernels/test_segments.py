"""Sums, log-sum-exps and ranges over the pairs of every box: by hand, and segment by segment."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cvpods_ext.kernels.segments import segment_logsumexp, segment_min_max, segment_sum

NO_PAIR = torch.zeros(0, dtype=torch.int64)


def pairs(seed: int, count: int = 6, length: int = 40) -> tuple[Tensor, Tensor]:
    """Values in no order of their segments; the first, the last and one between are empty."""
    random = torch.Generator().manual_seed(seed)
    chosen = torch.tensor([1, 2, 4])[torch.randint(0, 3, (length,), generator=random)]
    assert count == 6 and len(chosen.unique()) == 3
    return torch.randn(length, generator=random, dtype=torch.float64), chosen


def test_sum_by_hand():
    segment = torch.tensor([2, 0, 2, 0, 2])
    values = torch.tensor([1.0, 2, 3, 4, 5], requires_grad=True)
    sums = segment_sum(values, segment, 4)
    assert sums.tolist() == [6, 0, 9, 0]
    (gradient,) = torch.autograd.grad(sums @ torch.tensor([10.0, 20, 30, 40]), values)
    assert gradient.tolist() == [30, 10, 30, 10, 30]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 3])
def test_no_pairs(count, dtype):
    values = torch.zeros(0, dtype=dtype, requires_grad=True)
    sums = segment_sum(values, NO_PAIR, count)
    assert sums.tolist() == [0] * count and sums.dtype == dtype and sums.requires_grad
    logs = segment_logsumexp(values, NO_PAIR, count)
    assert logs.shape == (count,) and logs.dtype == dtype and logs.isfinite().all()
    assert (logs < -80).all()
    (gradient,) = torch.autograd.grad((sums + logs).sum(), values)
    assert gradient.shape == (0,)
    assert segment_min_max(values, NO_PAIR, count).shape == (0,)


def test_logsumexp_by_hand():
    """log(1 + 3) = log 4, log 5; nothing in segment 1."""
    values = torch.tensor([1.0, 5, 3]).log()
    logs = segment_logsumexp(values, torch.tensor([0, 2, 0]), 3)
    assert logs[[0, 2]].tolist() == pytest.approx([math.log(4), math.log(5)])
    assert -1000 < logs[1] < -80


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
@pytest.mark.parametrize("seed", range(5))
def test_logsumexp_matches_torch(seed, shift):
    """Values and gradients, also where exp overflows and where it underflows."""
    values, segment = pairs(seed)
    values = (values * 20 + shift).requires_grad_()
    logs = segment_logsumexp(values, segment, 6)
    full = segment.unique()
    expected = torch.stack([values[segment == i].logsumexp(dim=0) for i in full])
    torch.testing.assert_close(logs[full], expected, rtol=1e-12, atol=1e-12)
    factors = torch.tensor([3.0, -1, 2], dtype=torch.float64)
    sides = (logs[full] @ factors, expected @ factors)
    gradients = [torch.autograd.grad(side, values)[0] for side in sides]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_logsumexp_of_a_wide_range():
    """In float32, each by itself: the largest value and nothing else, or half of it twice."""
    values = torch.tensor([-1e4, 1e4, -1e4, -1e4, 1e-30], requires_grad=True)
    logs = segment_logsumexp(values, torch.tensor([0, 0, 1, 1, 2]), 3)
    assert logs.tolist() == [1e4, pytest.approx(-1e4 + math.log(2)), pytest.approx(0, abs=1e-7)]
    (gradient,) = torch.autograd.grad(logs.sum(), values)
    assert gradient.tolist() == [0, 1, 0.5, 0.5, 1]


def test_logsumexp_gradcheck():
    values, segment = pairs(7, length=12)
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: segment_logsumexp(v, segment, 6), (values,))


def test_min_max_by_hand():
    """Segment 0: 2, 6, 3 is 0, 1, 1/4 of its range; segment 2: -1, -3; segment 3 has one value."""
    values = torch.tensor([2.0, -1, 6, -3, 3, 7], dtype=torch.float64)
    parts = segment_min_max(values, torch.tensor([0, 2, 0, 2, 0, 3]), 4)
    assert parts.tolist() == pytest.approx([0, 1, 1, 0, 0.25, 1], abs=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e12, -5.0, 1 / 3])
def test_min_max_of_equal_values_is_one(value, dtype):
    values = torch.full((4,), value, dtype=dtype)
    assert segment_min_max(values, torch.tensor([1, 1, 1, 0]), 2).tolist() == [1] * 4


def test_min_max_keeps_the_small_number_of_its_definition():
    """(0 + 1e-12) / (3e-12 + 1e-12) = 1/4, and 1."""
    values = torch.tensor([0, 3e-12], dtype=torch.float64)
    assert segment_min_max(values, torch.tensor([0, 0]), 1).tolist() == pytest.approx([0.25, 1])


@pytest.mark.parametrize("seed", range(5))
def test_min_max_segment_by_segment(seed):
    values, segment = pairs(seed)
    values = values * 10 ** (seed - 2)
    parts = segment_min_max(values.requires_grad_(), segment, 6)
    assert not parts.requires_grad
    for i in segment.unique():
        own = values[segment == i].detach()
        expected = (own - own.min() + 1e-12) / (own.max() - own.min() + 1e-12)
        torch.testing.assert_close(parts[segment == i], expected, rtol=1e-12, atol=0)
        assert parts[segment == i].max() == 1
