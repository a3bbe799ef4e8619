"""Non-maximum suppression against torchvision and against loops in plain Python numbers."""

import math

import pytest
import torch
from torchvision import ops

from cvpods.layers import (
    batched_nms,
    batched_softnms,
    cluster_nms,
    generalized_batched_nms,
    nms,
)
from tests.seeds import each_seed

TYPES = ["normal", "softnms-linear", "softnms-gaussian", "cluster"]


def random_boxes(seed, count=40):
    """Overlapping boxes (N, 4), scores without ties (N,), three classes (N,)."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 20
    size = torch.rand(count, 2, generator=generator) * 20 + 5
    scores = (torch.randperm(count, generator=generator) + 1) / (count + 1)
    return torch.cat([low, low + size], 1), scores, torch.arange(count) % 3


def iou_of(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def nms_loop(boxes, scores, classes, threshold):
    """Take the best box, drop the boxes that overlap it, repeat."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        rivals = [j for j in kept if classes[j] == classes[i]]
        if all(iou_of(boxes[i], boxes[j]) <= threshold for j in rivals):
            kept.append(i)
    return kept


def softnms_loop(boxes, scores, classes, decay, score_threshold):
    """Soft-NMS, arXiv:1704.04503, Fig. 2, for every class; returns (kept, decayed scores)."""
    scores = list(scores)
    for class_id in set(classes):
        rest = [i for i in range(len(scores)) if classes[i] == class_id]
        while rest:
            best = max(rest, key=lambda i: scores[i])
            rest.remove(best)
            for i in rest:
                scores[i] *= decay(iou_of(boxes[best], boxes[i]))
            rest = [i for i in rest if scores[i] > score_threshold]
    kept = [i for i in range(len(scores)) if scores[i] > score_threshold]
    return sorted(kept, key=lambda i: -scores[i]), scores


DECAYS = {
    "softnms-linear": lambda threshold: lambda iou: 1 - iou if iou >= threshold else 1.0,
    "softnms-gaussian": lambda threshold: lambda iou: math.exp(-(iou**2) / threshold),
}


@each_seed(10)
@pytest.mark.parametrize("threshold", [0.3, 0.6])
@pytest.mark.parametrize("nms_type", ["normal", "cluster"])
def test_hard_nms_matches_the_loop(nms_type, threshold, seed):
    boxes, scores, classes = random_boxes(seed)
    kept = generalized_batched_nms(boxes, scores, classes, threshold, nms_type=nms_type)
    expected = nms_loop(boxes.tolist(), scores.tolist(), classes.tolist(), threshold)
    assert kept.tolist() == expected and kept.dtype == torch.int64
    assert 3 < len(expected) < len(boxes)


@pytest.mark.parametrize("seed", range(3))
def test_batched_nms_is_torchvisions(seed):
    boxes, scores, classes = random_boxes(seed, count=200)
    expected = ops.batched_nms(boxes, scores, classes, 0.5)
    assert torch.equal(batched_nms(boxes, scores, classes, 0.5), expected)
    assert torch.equal(cluster_nms(boxes, scores, classes, 0.5), expected)


def test_nms_is_torchvisions_function():
    boxes, scores, _ = random_boxes(0)
    assert torch.equal(nms(boxes, scores, 0.5), ops.nms(boxes, scores, 0.5))


def test_batched_nms_of_half_precision():
    boxes, scores, classes = random_boxes(0)
    kept = batched_nms(boxes.half(), scores.half(), classes, 0.5)
    assert torch.equal(kept, batched_nms(boxes.half().float(), scores.half().float(), classes, 0.5))


@each_seed(10)
@pytest.mark.parametrize(("threshold", "score_threshold"), [(0.3, 0.001), (0.6, 0.2)])
@pytest.mark.parametrize("nms_type", list(DECAYS))
def test_soft_nms_matches_the_loop(nms_type, threshold, score_threshold, seed):
    boxes, scores, classes = random_boxes(seed)
    expected, decayed = softnms_loop(
        boxes.tolist(),
        scores.tolist(),
        classes.tolist(),
        DECAYS[nms_type](threshold),
        score_threshold,
    )
    kept = generalized_batched_nms(
        boxes, scores, classes, threshold, score_threshold, nms_type=nms_type
    )
    assert kept.tolist() == expected and kept.dtype == torch.int64
    assert scores[kept].tolist() == pytest.approx([decayed[i] for i in expected], rel=1e-4)


def test_soft_nms_hand_case():
    """Boxes 10 wide and 10 high, the second 5 to the right: IoU 50 / 150 = 1/3.

    linear, threshold 0.3: 0.6 * (1 - 1/3) = 0.4; gaussian, 0.5: 0.6 * exp(-(1/9) / 0.5) = 0.48044.
    The third box is of another class and keeps 0.5.
    """
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]])
    classes = torch.tensor([0, 0, 1])
    scores = torch.tensor([0.9, 0.6, 0.5])
    kept = batched_softnms(boxes, scores, classes, 0.3, soft_mode="linear")
    assert kept.tolist() == [0, 2, 1] and scores.tolist() == pytest.approx([0.9, 0.4, 0.5])
    scores = torch.tensor([0.9, 0.6, 0.5])
    kept = batched_softnms(boxes, scores, classes, 0.5)
    assert kept.tolist() == [0, 2, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.48044, 0.5], rel=1e-5)


@pytest.mark.parametrize("nms_type", TYPES)
def test_empty(nms_type):
    kept = generalized_batched_nms(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), 0.5, nms_type=nms_type
    )
    assert kept.shape == (0,) and kept.dtype == torch.int64


@pytest.mark.parametrize("nms_type", TYPES)
def test_one_box(nms_type):
    kept = generalized_batched_nms(
        torch.tensor([[0.0, 0, 1, 1]]),
        torch.tensor([0.5]),
        torch.tensor([7]),
        0.5,
        nms_type=nms_type,
    )
    assert kept.tolist() == [0]


@pytest.mark.parametrize("nms_type", TYPES)
def test_classes_do_not_suppress_each_other(nms_type):
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(3, 1)
    scores = torch.tensor([0.2, 0.9, 0.5])
    kept = generalized_batched_nms(boxes, scores, torch.tensor([0, 1, 2]), 0.5, nms_type=nms_type)
    assert kept.tolist() == [1, 2, 0] and scores.tolist() == pytest.approx([0.2, 0.9, 0.5])


@pytest.mark.parametrize("nms_type", TYPES)
def test_boxes_without_area_stay_finite(nms_type):
    """Their IoU is 0, not NaN, so neither suppresses the other."""
    scores = torch.tensor([0.9, 0.8])
    kept = generalized_batched_nms(
        torch.full((2, 4), 3.0), scores, torch.tensor([0, 0]), 0.5, nms_type=nms_type
    )
    assert kept.tolist() == [0, 1] and scores.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("nms_type", TYPES)
def test_permuted_boxes_give_the_same_detections(nms_type):
    boxes, scores, classes = random_boxes(3)
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))
    kept = generalized_batched_nms(boxes, scores.clone(), classes, 0.5, nms_type=nms_type)
    permuted = generalized_batched_nms(
        boxes[order], scores[order], classes[order], 0.5, nms_type=nms_type
    )
    assert order[permuted].tolist() == kept.tolist()


def test_unknown_type():
    with pytest.raises(ValueError, match="normal.*cluster; got 'hard'"):
        generalized_batched_nms(*random_boxes(0), 0.5, nms_type="hard")
    with pytest.raises(ValueError, match="'cubic'"):
        batched_softnms(*random_boxes(0), 0.5, soft_mode="cubic")


def test_classes_stay_apart_at_negative_coordinates():
    """(0, 0, 10, 10) of class 0 and (-11, -11, -1, -1) of class 1, which do not even touch.

    torchvision shifts class c by c times the largest coordinate plus one, here by 11: that makes
    the second box the first one. The third, of class 1 too, has IoU 81 / 119 = .68 with the second.
    """
    boxes = torch.tensor([[0.0, 0, 10, 10], [-11, -11, -1, -1], [-10, -10, 0, 0]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1])
    assert ops.batched_nms(boxes, scores, classes, 0.5).tolist() == [0]
    assert batched_nms(boxes, scores, classes, 0.5).tolist() == [0, 1]
    assert batched_nms(boxes, scores, classes, 0.7).tolist() == [0, 1, 2]


def test_all_coordinates_negative():
    """Shifts by the largest coordinate plus one, -19, go to the left; by one of -1, nowhere."""
    boxes = torch.tensor([[-20.0, -20, -10, -10], [-29, -29, -19, -19], [-20, -20, -1, -1]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 2])
    for chosen in ([0, 1], [0, 2], [1, 2], [0, 1, 2]):
        kept = batched_nms(boxes[chosen], scores[chosen], classes[chosen], 0.1)
        assert kept.tolist() == list(range(len(chosen)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shift", [-15.0, -1000.0])
@pytest.mark.parametrize("nms_type", ["normal", "cluster"])
def test_shifted_boxes_match_the_loop(nms_type, shift, seed):
    boxes, scores, classes = random_boxes(seed)
    boxes = boxes.double() + torch.tensor([shift, 0, shift, 0])
    before = boxes.clone()
    kept = generalized_batched_nms(boxes, scores, classes, 0.4, nms_type=nms_type)
    assert kept.tolist() == nms_loop(boxes.tolist(), scores.tolist(), classes.tolist(), 0.4)
    assert torch.equal(boxes, before)


@pytest.mark.parametrize("lowest", [0.0, 3.0])
def test_boxes_at_non_negative_coordinates_are_handed_on_as_they_are(monkeypatch, lowest):
    boxes, scores, classes = random_boxes(0)
    boxes += lowest - boxes.min()
    seen = []
    plain = ops.batched_nms
    monkeypatch.setattr(ops, "batched_nms", lambda b, *rest: seen.append(b) or plain(b, *rest))
    kept = batched_nms(boxes, scores, classes, 0.5)
    assert torch.equal(seen[0], boxes) and torch.equal(kept, plain(boxes, scores, classes, 0.5))


@pytest.mark.parametrize("number", [0, 79, 363, 1202])
def test_result_does_not_depend_on_the_number_of_a_class(number):
    """IoU of the first two is (6 - 1.9) / (6 + 1.9) = 0.519 > 0.5, in a large image too.

    torchvision moves class k by k times the largest coordinate; in float32 that rounds boxes of 6
    pixels so that class 1202 kept both.
    """
    boxes = torch.tensor([[100.3, 50, 106.3, 56], [102.2, 50, 108.2, 56], [0, 0, 1333, 800]])
    scores, classes = torch.tensor([0.9, 0.8, 0.1]), torch.full((3,), number)
    assert batched_nms(boxes, scores, classes, 0.5).tolist() == [0, 2]


@pytest.mark.parametrize("number", [1, 79, 363])
def test_random_small_boxes_of_any_class(number):
    generator = torch.Generator().manual_seed(number)
    corners = torch.rand(2000, 2, generator=generator) * 200 + 1100
    boxes = torch.cat([corners, corners + 4 + 8 * torch.rand(2000, 2, generator=generator)], dim=1)
    scores = torch.rand(2000, generator=generator)
    kept = batched_nms(boxes, scores, torch.full((2000,), number), 0.5)
    assert kept.tolist() == batched_nms(boxes, scores, torch.zeros(2000), 0.5).tolist()
