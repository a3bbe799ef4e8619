"""Deltas to anchors and distances to points, and back."""

import math

import pytest
import torch

from cvpods.modeling.box_regression import (
    DEFAULT_SCALE_CLAMP,
    Box2BoxTransform,
    Shift2BoxTransform,
)

ONES = (1.0, 1.0, 1.0, 1.0)
WEIGHTS = [ONES, (10.0, 10.0, 5.0, 5.0), [1.0, 2.0, 3.0, 4.0]]


def random_boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(*shape, 2, generator=generator) * 50
    return torch.cat([low, low + torch.rand(*shape, 2, generator=generator) * 50 + 1], -1)


# -- Box2BoxTransform ----------------------------------------------------------------------------


def test_deltas_by_hand():
    """From centre (5, 10), size 10 x 20, to centre (10, 15), size 20 x 10.

    dx = 5 / 10 = 0.5; dy = 5 / 20 = 0.25; dw = log(20 / 10); dh = log(10 / 20).
    """
    anchors, boxes = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[0.0, 10, 20, 20]])
    expected = torch.tensor([[0.5, 0.25, math.log(2), -math.log(2)]])
    transform = Box2BoxTransform(ONES)
    assert torch.allclose(transform.get_deltas(anchors, boxes), expected)
    assert torch.allclose(transform.apply_deltas(expected, anchors), boxes, atol=1e-5)
    weighted = Box2BoxTransform((2.0, 4.0, 10.0, 1.0)).get_deltas(anchors, boxes)
    assert torch.allclose(weighted, expected * torch.tensor([2.0, 4, 10, 1]))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", [(7,), (2, 5), (2, 3, 4)])
def test_round_trip(shape, weights):
    anchors, boxes = random_boxes(*shape), random_boxes(*shape, seed=1)
    transform = Box2BoxTransform(weights)
    deltas = transform.get_deltas(anchors, boxes)
    assert deltas.shape == boxes.shape
    assert torch.allclose(transform.apply_deltas(deltas, anchors), boxes, atol=1e-3)


def test_zero_deltas_give_the_anchor():
    anchors = random_boxes(5)
    decoded = Box2BoxTransform(ONES).apply_deltas(torch.zeros(5, 4), anchors)
    assert torch.allclose(decoded, anchors, atol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_deltas_of_several_classes(shape):
    """K * 4 deltas of an anchor give K boxes, each as if it were alone."""
    torch.manual_seed(0)
    anchors, deltas = random_boxes(*shape), torch.randn(*shape, 5 * 4)
    transform = Box2BoxTransform(WEIGHTS[1])
    together = transform.apply_deltas(deltas, anchors)
    assert together.shape == (*shape, 20)
    for k in range(5):
        alone = transform.apply_deltas(deltas[..., 4 * k : 4 * k + 4], anchors)
        assert torch.allclose(together[..., 4 * k : 4 * k + 4], alone, atol=1e-5)


def test_scale_clamp():
    """A unit anchor grows to 1000 / 16 = 62.5 and no further; shrinking has no limit."""
    anchor, deltas = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 100, -100]])
    x1, y1, x2, y2 = Box2BoxTransform(ONES).apply_deltas(deltas, anchor)[0].tolist()
    assert x2 - x1 == pytest.approx(62.5, rel=1e-4) and y2 - y1 == pytest.approx(0, abs=1e-6)
    assert DEFAULT_SCALE_CLAMP == math.log(62.5)
    small = Box2BoxTransform(ONES, scale_clamp=math.log(2)).apply_deltas(deltas, anchor)[0]
    assert (small[2] - small[0]).item() == pytest.approx(2)


@pytest.mark.parametrize(("clamp", "shift"), [(False, 50), (True, 32)])
def test_centre_clamp(clamp, shift):
    """dx = 5 of a width of 10 is 50 pixels; limited, 32. dy = -5: the other way."""
    anchor, deltas = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, -5, 0, 0]])
    decoded = Box2BoxTransform(ONES, add_ctr_clamp=clamp).apply_deltas(deltas, anchor)
    expected = torch.tensor([[shift, -shift, 10 + shift, 10 - shift]], dtype=torch.float32)
    assert torch.allclose(decoded, expected)


def test_centre_clamp_in_pixels():
    transform = Box2BoxTransform(ONES, add_ctr_clamp=True, ctr_clamp=4)
    decoded = transform.apply_deltas(
        torch.tensor([[1.0, 0.1, 0, 0]]), torch.tensor([[0.0, 0, 10, 10]])
    )
    assert torch.allclose(decoded, torch.tensor([[4.0, 1, 14, 11]]))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_strict_refuses_what_is_not_finite(bad):
    deltas, anchor = torch.tensor([[0.0, 0, 0, bad]]), torch.tensor([[0.0, 0, 1, 1]])
    with pytest.raises(AssertionError, match="infinite or NaN"):
        Box2BoxTransform(ONES).apply_deltas(deltas, anchor)
    assert Box2BoxTransform(ONES).apply_deltas(deltas, anchor, strict=False).shape == (1, 4)


def test_anchors_need_a_width():
    with pytest.raises(AssertionError, match="not valid"):
        Box2BoxTransform(ONES).get_deltas(torch.tensor([[1.0, 0, 1, 1]]), torch.zeros(1, 4))


@pytest.mark.parametrize("channels", [4, 20])
@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_no_boxes(shape, channels):
    transform = Box2BoxTransform(ONES)
    assert transform.get_deltas(torch.zeros(*shape, 4), torch.zeros(*shape, 4)).shape == (*shape, 4)
    decoded = transform.apply_deltas(torch.zeros(*shape, channels), torch.zeros(*shape, 4))
    assert decoded.shape == (*shape, channels)


def test_half_precision_deltas_decode_in_float32():
    decoded = Box2BoxTransform(ONES).apply_deltas(
        torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([[1001.0, 0, 1003, 2]])
    )
    assert decoded.dtype == torch.float32 and decoded.tolist() == [[1001, 0, 1003, 2]]


# -- Shift2BoxTransform --------------------------------------------------------------------------


def test_distances_by_hand():
    """Point (4, 5) in (1, 2, 8, 11): left 4 - 1, top 5 - 2, right 8 - 4, bottom 11 - 5."""
    point, box = torch.tensor([[4.0, 5.0]]), torch.tensor([[1.0, 2, 8, 11]])
    assert Shift2BoxTransform(ONES).get_deltas(point, box).tolist() == [[3, 3, 4, 6]]
    weighted = Shift2BoxTransform((1.0, 2.0, 3.0, 4.0))
    assert weighted.get_deltas(point, box).tolist() == [[3, 6, 12, 24]]
    assert weighted.apply_deltas(torch.tensor([[3.0, 6, 12, 24]]), point).tolist() == box.tolist()


def test_distance_is_negative_outside():
    distances = Shift2BoxTransform(ONES).get_deltas(
        torch.zeros(1, 2), torch.tensor([[1.0, -1, 2, 2]])
    )
    assert distances.tolist() == [[-1, 1, 2, 2]]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", [(7,), (2, 5)])
def test_distances_round_trip(shape, weights):
    boxes = random_boxes(*shape)
    points = random_boxes(*shape, seed=1)[..., :2]
    transform = Shift2BoxTransform(weights)
    decoded = transform.apply_deltas(transform.get_deltas(points, boxes), points)
    assert torch.allclose(decoded, boxes, atol=1e-4)


def test_points_broadcast_over_boxes():
    points, boxes = torch.rand(7, 2), random_boxes(3)
    deltas = Shift2BoxTransform(ONES).get_deltas(points, boxes[:, None])
    assert deltas.shape == (3, 7, 4)
    assert torch.equal(deltas[2, 5], Shift2BoxTransform(ONES).get_deltas(points[5], boxes[2]))


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_no_points(shape):
    transform = Shift2BoxTransform(ONES)
    assert transform.get_deltas(torch.zeros(*shape, 2), torch.zeros(*shape, 4)).shape == (*shape, 4)
    decoded = transform.apply_deltas(torch.zeros(*shape, 4), torch.zeros(*shape, 2))
    assert decoded.shape == (*shape, 4)
