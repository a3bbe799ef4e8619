"""ATSS's losses: against a loop, gradients, empty and extreme input."""

from __future__ import annotations

import math

import pytest
import torch

from cvpods_ext.methods.atss import AtssTargets, atss_loss, atss_targets
from tests.reference.atss import atss_loss_loop
from tests.seeds import each_seed

K = 3
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [10.0, 0, 20, 10], [0.0, 10, 10, 20], [4.0, 4, 16, 16]])
GT = torch.tensor([[0.0, 0, 20, 10], [2.0, 2, 18, 20]])
CLASSES = torch.tensor([2, 0])
INDEX = torch.tensor([0, -1, 1, 1])


def stacked(index=INDEX, boxes=GT, classes=CLASSES) -> AtssTargets:
    one = atss_targets(ANCHORS, index, boxes, classes, K)
    return AtssTargets(*(part[None] for part in one))


def predictions(seed: int = 0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 4, K, generator=random, dtype=dtype)
    boxes = (ANCHORS + torch.rand(4, 4, generator=random) * 4).to(dtype)[None]
    quality = torch.randn(1, 4, 1, generator=random, dtype=dtype)
    return [t.requires_grad_() for t in (logits, boxes, quality)]


def test_targets_by_hand():
    """Anchor 0 (centre 5, 5) in box 0 = (0, 0, 20, 10): l, t, r, b = 5, 5, 15, 5.

    centerness sqrt(5/15 * 5/5) = .57735. Anchor 3 (centre 10, 10) in box 1 = (2, 2, 18, 20):
    8, 8, 8, 10: sqrt(1 * .8) = .89443.
    """
    targets = atss_targets(ANCHORS, INDEX, GT, CLASSES, K)
    assert targets.classes.tolist() == [2, 3, 0, 0]
    assert targets.boxes.tolist() == [*GT[:1].tolist(), ANCHORS[1].tolist(), *GT[[1, 1]].tolist()]
    expected = [math.sqrt(1 / 3), 0.0, math.sqrt(3 / 13 * 5 / 13), math.sqrt(0.8)]
    assert targets.centerness.tolist() == pytest.approx(expected)


def test_ignored_anchors_count_nowhere():
    logits, boxes, quality = predictions()
    without = atss_loss(logits, boxes, quality, stacked(torch.tensor([0, -2, 1, 1])))
    keep = [0, 2, 3]
    part = atss_targets(ANCHORS[keep], INDEX[keep], GT, CLASSES, K)
    part = AtssTargets(*(t[None] for t in part))
    expected = atss_loss(logits[:, keep], boxes[:, keep], quality[:, keep], part)
    for name in expected:
        torch.testing.assert_close(without[name], expected[name])


@each_seed(20)
def test_matches_loop(seed):
    logits, boxes, quality = predictions(seed)
    index = torch.randint(-1, 2, (4,), generator=torch.Generator().manual_seed(seed))
    # Only positions inside the box have a centerness.
    inside = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1]], dtype=torch.bool)
    index = torch.where((index >= 0) & ~inside[index, torch.arange(4)], -1, index)
    actual = atss_loss(logits, boxes, quality, stacked(index))
    expected = atss_loss_loop(
        logits[0].tolist(),
        boxes[0].tolist(),
        quality[0, :, 0].tolist(),
        ANCHORS.tolist(),
        index.tolist(),
        GT.tolist(),
        CLASSES.tolist(),
    )
    for name, value in expected.items():
        assert actual[name].item() == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_empty():
    """No boxes: only the classifier learns, the other gradients exist and are 0."""
    logits, boxes, quality = predictions()
    none = stacked(torch.full((4,), -1), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    losses = atss_loss(logits, boxes, quality, none)
    sum(losses.values()).backward()
    assert losses["loss_box_reg"] == 0 and losses["loss_centerness"] == 0
    assert losses["loss_cls"] > 0 and logits.grad.abs().sum() > 0
    assert boxes.grad.abs().sum() == 0 and quality.grad.abs().sum() == 0


def test_grad():
    logits, boxes, quality = predictions(1, torch.float64)
    targets = stacked()
    targets = targets._replace(boxes=targets.boxes.double(), centerness=targets.centerness.double())

    assert torch.autograd.gradcheck(
        lambda *inputs: sum(atss_loss(*inputs, targets).values()), (logits, boxes, quality)
    )


@pytest.mark.parametrize("logit", [-50.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits(logit, dtype):
    logits = torch.full((1, 4, K), logit, dtype=dtype, requires_grad=True)
    quality = torch.full((1, 4, 1), logit, dtype=dtype, requires_grad=True)
    boxes = ANCHORS[None].clone().to(dtype).requires_grad_()
    losses = atss_loss(logits, boxes, quality, stacked())
    sum(losses.values()).backward()
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
        assert loss.dtype == torch.float32
    for tensor in (logits, quality, boxes):
        assert torch.isfinite(tensor.grad).all()


def test_zero_area_predictions_have_finite_gradients():
    logits, _, quality = predictions()
    boxes = torch.zeros(1, 4, 4, requires_grad=True)
    losses = atss_loss(logits, boxes, quality, stacked())
    losses["loss_box_reg"].backward()
    assert torch.isfinite(losses["loss_box_reg"]) and torch.isfinite(boxes.grad).all()


def test_perfect_prediction_is_near_zero():
    targets = stacked()
    logits = torch.full((1, 4, K), -20.0)
    for j, label in enumerate(targets.classes[0].tolist()):
        if label < K:
            logits[0, j, label] = 20.0
    quality = torch.logit(targets.centerness.clamp(1e-6, 1 - 1e-6))[..., None]
    losses = atss_loss(logits, targets.boxes, quality, targets)
    assert losses["loss_cls"] < 1e-6
    assert losses["loss_box_reg"].abs() < 1e-5
    # The least cross-entropy is the targets' own entropy.
    c = targets.centerness[0, [0, 2, 3]]
    entropy = -(c * c.log() + (1 - c) * (1 - c).log()).sum()
    assert losses["loss_centerness"].item() == pytest.approx(entropy.item(), rel=1e-4)
