"""The focal loss of negatives against autograd on its formula, at the edges, in slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cvpods.structures.slices import slices
from cvpods_ext.kernels.negatives import (
    loss_and_slopes,
    negative_focal_loss,
    negative_focal_loss_and_logits,
)

CPU = torch.device("cpu")


def inputs(seed: int, shape: tuple[int, int, int] = (3, 7, 4)) -> tuple[Tensor, Tensor]:
    """Logits and objectness logits, float64."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=random, dtype=torch.float64)
    objectness = 2 * torch.randn(*shape[:2], 1, generator=random, dtype=torch.float64)
    return logits.requires_grad_(), objectness.requires_grad_()


def tables_of(seed: int, shape: tuple[int, int, int] = (3, 7, 4)) -> list[Tensor | None]:
    """A per image, with zeros and ones among its values; none in the second image."""
    random = torch.Generator().manual_seed(100 + seed)
    values = 1.5 * torch.rand(shape, generator=random, dtype=torch.float64) - 0.25
    return [None if n == 1 else table for n, table in enumerate(values.clamp(0, 1))]


class Recorder:
    """A of an image as an object; it notes the slices that it is asked for."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.parts = table, []

    def __getitem__(self, part: slice) -> Tensor:
        self.parts.append(part)
        return self.table[part]


def plain(
    logits: Tensor, objectness: Tensor | None, tables: Sequence[Tensor | None], gamma: float
) -> Tensor:
    p = logits.sigmoid() if objectness is None else logits.sigmoid() * objectness.sigmoid()
    kept = [torch.ones_like(p[0]) if table is None else 1 - table for table in tables]
    x = p * torch.stack(kept)
    return -(x**gamma * torch.log1p(-x)).sum()


def test_by_hand():
    """Logit 0 without objectness: FL(1/2) = log 2 / 4 = .1732868.

    With objectness 0 and log 3: x = 1/4 and 3/8; A = 1/2 makes 1/8 of the first.
    FL(1/4) = .0179801, FL(3/8) = .0660943, FL(1/8) = .0020864
    """
    zero = torch.zeros(1, 1, 1)
    assert negative_focal_loss(zero, None, [None], 2.0).item() == pytest.approx(0.1732868)
    objectness = torch.tensor([[[0.0], [math.log(3)]]])
    loss = negative_focal_loss(torch.zeros(1, 2, 1), objectness, [None], 2.0)
    assert loss.item() == pytest.approx(0.0179801 + 0.0660943, abs=1e-6)
    found = [torch.tensor([[0.5], [0]])]
    loss = negative_focal_loss(torch.zeros(1, 2, 1), objectness, found, 2.0)
    assert loss.item() == pytest.approx(0.0020864 + 0.0660943, abs=1e-6)
    assert loss.shape == ()


@pytest.mark.parametrize("with_tables", [False, True], ids=["nothing found", "tables"])
@pytest.mark.parametrize("with_objectness", [False, True], ids=["", "objectness"])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5, 2.0])
def test_matches_autograd(gamma, with_objectness, with_tables):
    for seed in range(5):
        logits, objectness = inputs(seed)
        tables = tables_of(seed) if with_tables else [None] * 3
        leaves = (logits, objectness) if with_objectness else (logits,)
        objectness = objectness if with_objectness else None
        actual = negative_focal_loss(logits, objectness, tables, gamma)
        expected = plain(logits, objectness, tables, gamma)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
        sides = [torch.autograd.grad(3 * loss, leaves) for loss in (actual, expected)]
        torch.testing.assert_close(*sides, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gamma", [1.5, 2.0])
@pytest.mark.parametrize("with_objectness", [False, True], ids=["", "objectness"])
def test_gradcheck(with_objectness, gamma):
    logits, objectness = inputs(9, (2, 3, 2))
    leaves = (logits, objectness) if with_objectness else (logits,)
    found = tables_of(9, (2, 3, 2))

    def loss(logits: Tensor, objectness: Tensor | None = None) -> Tensor:
        return negative_focal_loss(logits, objectness, found, gamma)

    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("value", [50.0, -50.0, 90.0, -90.0, 1e4, -1e4])
@pytest.mark.parametrize("obj_value", [None, 0.0, 50.0, -50.0, 90.0, -90.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_are_finite(dtype, obj_value, value):
    """With A = 0, 1/2 and 1, and for an image without A."""
    logits = torch.full((2, 3, 2), value, dtype=dtype, requires_grad=True)
    leaves, objectness = (logits,), None
    if obj_value is not None:
        objectness = torch.full((2, 3, 1), obj_value, dtype=dtype, requires_grad=True)
        leaves = (logits, objectness)
    table = torch.tensor([0, 0.5, 1], dtype=dtype)[:, None].repeat(1, 2)
    for gamma in (1.5, 2.0):
        loss = negative_focal_loss(logits, objectness, [table, None], gamma)
        assert loss.isfinite() and loss >= 0 and loss.dtype == dtype
        for gradient in torch.autograd.grad(loss, leaves):
            assert gradient.isfinite().all() and (gradient >= 0).all()
            assert gradient.dtype == dtype
            assert (gradient[0, 2] == 0).all()


@pytest.mark.parametrize("value", [80.0, 87.0, 89.0, 95.0, 200.0])
@pytest.mark.parametrize("num_classes", [5, 20, 80])
def test_slopes_of_many_sure_classes(num_classes, value):
    """1 - x is about exp(-value), 1e-38 for 87: x / (1 - x) of all classes exceeds any float32.

    For logits of exp(-value) << 1, each class has half a slope of 1, the objectness half of each.
    """
    logits = torch.full((1, 2, num_classes), value, requires_grad=True)
    objectness = torch.full((1, 2, 1), value, requires_grad=True)
    loss = negative_focal_loss(logits, objectness, [None], 2.0)
    slope, obj_slope = torch.autograd.grad(loss, (logits, objectness))
    assert loss.isfinite() and slope.isfinite().all() and obj_slope.isfinite().all()
    if value < 88:  # exp(-value) is a normal float32
        torch.testing.assert_close(slope, torch.full_like(slope, 0.5))
        torch.testing.assert_close(obj_slope, torch.full_like(obj_slope, num_classes / 2))


def test_sure_and_wrong_costs_in_proportion():
    """-log(1 - p) of a logit of 50 is 50 and its slope 1; with an objectness of 50 too,

    1 - p = 2 exp(-50): 50 - log 2, and half a slope for either. A = 1/2: x = 1/2, log 2 / 4.
    """
    logits = torch.full((1, 1, 1), 50.0, requires_grad=True)
    loss = negative_focal_loss(logits, None, [None], 2.0)
    assert loss.item() == pytest.approx(50)
    assert torch.autograd.grad(loss, logits)[0].item() == pytest.approx(1)
    objectness = logits.detach().clone().requires_grad_()
    loss = negative_focal_loss(logits, objectness, [None], 2.0)
    assert loss.item() == pytest.approx(50 - math.log(2))
    slopes = torch.autograd.grad(loss, (logits, objectness))
    assert [slope.item() for slope in slopes] == pytest.approx([0.5, 0.5])
    found = [torch.full((1, 1), 0.5)]
    loss = negative_focal_loss(logits, objectness, found, 2.0)
    assert loss.item() == pytest.approx(math.log(2) / 4)


@pytest.mark.parametrize("with_objectness", [False, True], ids=["", "objectness"])
def test_float32_is_as_good_as_float64(with_objectness):
    """Logits from -15 to 60, where p = 1 in float32 and, from 37 on, in float64."""
    values = torch.linspace(-15, 60, 76, dtype=torch.float64).view(1, -1, 1)
    exact = values.clone().requires_grad_()
    miss = torch.sigmoid(-exact)
    objectness, obj_miss = None, torch.zeros_like(miss)
    if with_objectness:
        objectness = values.flip(1)
        obj_miss = torch.sigmoid(-objectness)
    rest = miss + obj_miss - miss * obj_miss
    expected = -((1 - rest) ** 2 * rest.log()).sum()
    single = values.float().requires_grad_()
    obj_single = None if objectness is None else objectness.float()
    loss = negative_focal_loss(single, obj_single, [None], 2.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (expected_slope,) = torch.autograd.grad(expected, exact)
    (slope,) = torch.autograd.grad(loss, single)
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bound", [1, 8, 13, 2**10])
@pytest.mark.parametrize("with_objectness", [False, True], ids=["", "objectness"])
def test_slices_do_not_matter(with_objectness, bound):
    logits, objectness = inputs(3)
    leaves = (logits, objectness) if with_objectness else (logits,)
    objectness = objectness if with_objectness else None
    tables = tables_of(3)
    expected = plain(logits, objectness, tables, 2.0)
    actual = negative_focal_loss(logits, objectness, tables, 2.0, elements_at_once=bound)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    sides = [torch.autograd.grad(loss, leaves) for loss in (actual, expected)]
    torch.testing.assert_close(*sides, rtol=1e-9, atol=1e-12)


def test_slices_follow_the_width():
    """7 locations, 8 elements at once: rows of 4 classes by twos; tables of width 9 one by one."""
    logits, objectness = inputs(4)
    for width, step in ((0, 2), (4, 2), (9, 1)):
        tables = [Recorder(torch.zeros(7, 4).double()) for _ in range(3)]
        negative_focal_loss(logits, objectness, tables, 2.0, width=width, elements_at_once=8)
        expected = list(slices(7, max(4, width), CPU, elements=8))
        assert [table.parts for table in tables] == [expected] * 3
        assert expected[0] == slice(0, step)


def test_as_many_tables_as_images():
    logits, objectness = inputs(4)
    with pytest.raises(ValueError):
        negative_focal_loss(logits, objectness, [None] * 2, 2.0)


@pytest.mark.parametrize("bound", [None, 1, 13])
def test_picked_logits_share_the_gradient(bound):
    """Loss and logits at indices that repeat, against autograd on both."""
    for seed in range(5):
        logits, _ = inputs(seed)
        random = torch.Generator().manual_seed(seed)
        picked = torch.randint(0, logits.numel(), (2, 5), generator=random)
        weights = torch.randn(2, 5, generator=random, dtype=torch.float64)
        loss, at = negative_focal_loss_and_logits(
            logits, picked, tables_of(seed), 2.0, elements_at_once=bound
        )
        assert torch.equal(at, logits.flatten()[picked])
        (actual,) = torch.autograd.grad(3 * loss + (weights * at).sum(), logits)
        expected = 3 * plain(logits, None, tables_of(seed), 2.0)
        expected = expected + (weights * logits.flatten()[picked]).sum()
        (expected,) = torch.autograd.grad(expected, logits)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_backward_twice():
    logits, objectness = inputs(5)
    loss = negative_focal_loss(logits, objectness, tables_of(5), 2.0)
    kept, copies = [], []
    for _ in range(3):
        logits.grad = objectness.grad = None
        loss.backward(retain_graph=True)
        kept.append([logits.grad, objectness.grad])
        copies.append([gradient.clone() for gradient in kept[-1]])
    assert copies[0][0].abs().sum() > 0 and copies[0][1].abs().sum() > 0
    for other in (*kept, *copies[1:]):
        torch.testing.assert_close(other, copies[0], rtol=0, atol=0)
    loss.backward()
    torch.testing.assert_close(logits.grad, 2 * copies[0][0])


def test_any_layout_of_the_logits():
    """Logits as heads give them: (N, K, R) turned round."""
    logits, objectness = inputs(6)
    turned = logits.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    obj_turned = objectness.detach().expand(3, 7, 4)[..., 1:2].requires_grad_()
    assert not turned.is_contiguous()
    results = []
    for leaves in ((logits, objectness), (turned, obj_turned)):
        loss = negative_focal_loss(*leaves, tables_of(6), 2.0)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    torch.testing.assert_close(*results, rtol=1e-12, atol=0)


def test_inputs_are_left_alone():
    logits, objectness = inputs(7)
    tables = tables_of(7)
    tensors = [logits, objectness, tables[0], tables[2]]
    before = [t.detach().clone() for t in tensors]
    negative_focal_loss(logits, objectness, tables, 2.0).backward()
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert [t._version for t in tensors] == [0] * 4


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3)])
def test_nothing_to_sum(shape):
    logits, objectness = inputs(0, shape)
    loss = negative_focal_loss(logits, objectness, [None] * shape[0], 2.0)
    assert loss == 0
    gradients = torch.autograd.grad(loss, (logits, objectness))
    assert [g.shape for g in gradients] == [logits.shape, objectness.shape]


def test_only_what_asks_gets_a_gradient():
    logits, objectness = inputs(8)
    expected = torch.autograd.grad(
        negative_focal_loss(logits, objectness, [None] * 3, 2.0), (logits, objectness)
    )
    alone = negative_focal_loss(logits, objectness.detach(), [None] * 3, 2.0)
    torch.testing.assert_close(torch.autograd.grad(alone, logits), expected[:1])
    alone = negative_focal_loss(logits.detach(), objectness, [None] * 3, 2.0)
    torch.testing.assert_close(torch.autograd.grad(alone, objectness), expected[1:])


def test_without_slopes_only_the_sum():
    logits, objectness = (t.detach() for t in inputs(8))
    with_slopes = loss_and_slopes(logits, objectness, [None] * 3, 2.0, 4, with_slopes=True)
    without = loss_and_slopes(logits, objectness, [None] * 3, 2.0, 4, with_slopes=False)
    assert without == (with_slopes[0], None, None)
    assert with_slopes[1].shape == logits.shape and with_slopes[2].shape == objectness.shape
    assert loss_and_slopes(logits, None, [None] * 3, 2.0, 4, with_slopes=True)[2] is None
