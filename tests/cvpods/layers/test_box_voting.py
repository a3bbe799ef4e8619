"""box_voting: worked out by hand, against a loop in plain Python numbers, extreme input."""

from __future__ import annotations

import math

import pytest
import torch

from cvpods.layers import box_voting
from tests.reference.box_voting import box_voting_loop
from tests.seeds import each_seed

# All corners at (0, 0) and 10 wide: the IoU of two is the lower height through the greater one.
TEN, NINE, EIGHT, FIVE = ([0.0, 0.0, 10.0, float(height)] for height in (10, 9, 8, 5))


def vote(boxes, scores, threshold=0.66, classes=None, **options):
    """Results as lists (boxes, scores, classes); all of class 0 where `classes` does not say."""
    classes = [0] * len(boxes) if classes is None else classes
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor(scores, dtype=torch.float32)
    results = box_voting(boxes, scores, torch.tensor(classes).long(), threshold, **options)
    return tuple(result.tolist() for result in results)


def approx(rows):
    """Nested lists of numbers, nearly."""
    return [pytest.approx(row, abs=1e-4) for row in rows]


# -- by hand ---------------------------------------------------------------------------------------


def test_two_boxes_become_one():
    """Heights 10 (score 0.8) and 8 (0.4): IoU 0.8 >= 0.66.

    Mean height (0.8 * 10 + 0.4 * 8) / 1.2 = 11.2 / 1.2 = 9.3333, score 0.8. The second one stays
    at its place with 0.4 * (1 - 0.8) = 0.08 >= 0.05.
    """
    boxes, scores, classes = vote([TEN, EIGHT], [0.8, 0.4])
    assert boxes == approx([[0, 0, 10, 9.3333], EIGHT])
    assert scores == pytest.approx([0.8, 0.08]) and classes == [0, 0]


def test_three_boxes_become_one():
    """Heights 10 (0.5), 9 (0.3), 8 (0.2), not in order: IoUs to the first one 0.9 and 0.8.

    Mean height (5 + 2.7 + 1.6) / 1.0 = 9.3. Decayed 0.3 * 0.1 = 0.03 and 0.2 * 0.2 = 0.04: both
    are below 0.05 and go; with min_score 0.035 the second one stays.
    """
    boxes, scores, _ = vote([EIGHT, TEN, NINE], [0.2, 0.5, 0.3])
    assert boxes == approx([[0, 0, 10, 9.3]]) and scores == pytest.approx([0.5])
    boxes, scores, _ = vote([EIGHT, TEN, NINE], [0.2, 0.5, 0.3], min_score=0.035)
    assert boxes == approx([[0, 0, 10, 9.3], EIGHT]) and scores == pytest.approx([0.5, 0.04])


def test_all_four_coordinates_are_averaged():
    """Weights 3/4 and 1/4: x1 = 1.5 + 1 = 2.5, y1 = 3 + 0.5, x2 = 15 + 5.5, y2 = 22.5 + 7.

    Widths 18 and 18, heights 27 and 26; together 16 x 25 = 400 of 486 + 468 - 400 = 554: 0.722.
    """
    boxes, scores, _ = vote([[2, 3, 20, 30], [4, 2, 22, 28]], [0.6, 0.2], soft=False)
    assert boxes == approx([[2.5, 2.75, 20.5, 29.5]]) and scores == pytest.approx([0.6])


def test_a_box_without_company_stays_as_it_is():
    """IoU 0.5 < 0.66: two clusters of one; no coordinate goes through a mean and back."""
    boxes, scores, _ = vote([[0.1, 0.2, 10.3, 10.7], [0.1, 0.2, 10.3, 5.4]], [0.3, 0.7])
    expected = torch.tensor([[0.1, 0.2, 10.3, 5.4], [0.1, 0.2, 10.3, 10.7]])
    assert boxes == expected.tolist() and scores == torch.tensor([0.7, 0.3]).tolist()


def test_the_head_comes_once():
    """Its score would decay to 0.9 * (1 - 1) = 0: not there, though min_score asks for >= 0."""
    assert vote([TEN], [0.9], min_score=0.0)[0] == [TEN]
    boxes, scores, _ = vote([TEN, EIGHT], [0.5, 0.5], min_score=0.0)
    assert boxes == approx([[0, 0, 10, 9], EIGHT]) and scores == pytest.approx([0.5, 0.1])


def test_copies_of_the_head_decay_to_nothing():
    """IoU 1: 26 passes that agree leave one box, with the highest of their scores."""
    boxes, scores, _ = vote([NINE] * 26, [0.5 + 0.01 * i for i in range(26)])
    assert boxes == approx([NINE]) and scores == pytest.approx([0.75])


@pytest.mark.parametrize(("min_score", "stays"), [(0.1249, 1), (0.125, 1), (0.1251, 0)])
def test_least_decayed_score(min_score, stays):
    """Heights 8 and 6: IoU 0.75; 0.5 * (1 - 0.75) = 0.125, which is enough for 0.125."""
    boxes, _, _ = vote([EIGHT, [0, 0, 10, 6]], [0.6, 0.5], min_score=min_score)
    assert boxes[1:] == [[0, 0, 10, 6]] * stays


def test_least_decayed_score_by_default():
    """Heights 8 and 6 again: 0.2 * 0.25 = 0.05 stays, 0.19 * 0.25 = 0.0475 goes."""
    assert len(vote([EIGHT, [0, 0, 10, 6]], [0.6, 0.2])[0]) == 2
    assert len(vote([EIGHT, [0, 0, 10, 6]], [0.6, 0.19])[0]) == 1


def test_the_least_score_is_for_decayed_ones_alone():
    """A merged box of score 0.04 and a single one of 0.01 stay."""
    boxes, scores, _ = vote([TEN, EIGHT, [50, 50, 60, 60]], [0.04, 0.04, 0.01])
    assert boxes == approx([[0, 0, 10, 9], [50, 50, 60, 60]])
    assert scores == pytest.approx([0.04, 0.01])


def test_classes_are_apart():
    """The same box in classes 7, 0 and 79 three times; the fourth one votes in class 0 alone."""
    boxes, scores, classes = vote([TEN] * 3 + [EIGHT], [0.7, 0.8, 0.9, 0.4], 0.66, [7, 0, 79, 0])
    assert boxes == approx([TEN, [0, 0, 10, 9.3333], TEN, EIGHT])
    assert scores == pytest.approx([0.9, 0.8, 0.7, 0.08]) and classes == [79, 0, 7, 0]


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("threshold", "heights"),
    [
        (0.5, (10, 5)),
        (0.25, (8, 2)),
        (0.75, (8, 6)),
        (0.66, (50, 33)),
        (0.6, (10, 6)),
        (0.65, (20, 13)),
        (0.7, (10, 7)),
        (1.0, (10, 10)),
    ],
)
def test_iou_at_the_threshold_is_enough(threshold, heights, device):
    """Heights 10 and 5: IoU 0.5 >= 0.5; above the threshold by 0.001 they do not meet.

    Also where the float32 of 13 / 20 or of 7 / 10 is less than the threshold as a Python number.
    """
    boxes = torch.tensor([[0.0, 0, 10, height] for height in heights], device=device)
    scores, classes = torch.tensor([0.9, 0.8], device=device), torch.tensor([0, 0], device=device)
    assert len(box_voting(boxes, scores, classes, threshold, soft=False)[0]) == 1
    if threshold < 1:
        assert len(box_voting(boxes, scores, classes, threshold + 0.001, soft=False)[0]) == 2


def test_vote_without_decayed_members():
    boxes, scores, classes = vote([TEN, EIGHT], [0.8, 0.4], soft=False)
    assert boxes == approx([[0, 0, 10, 9.3333]])
    assert scores == pytest.approx([0.8]) and classes == [0]


@pytest.mark.parametrize("last", [0.7, 0.85])
def test_a_chain(last):
    """A 0-10, B 2-12, C 3.5-13.5, all 10 high, threshold 0.6: A is best and takes B, C is alone.

    IoU(A, B) = 8 / 12 = 0.667, IoU(B, C) = 8.5 / 11.5 = 0.739, IoU(A, C) = 6.5 / 13.5 = 0.48. So
    also where C (0.85) is better than B (0.8), heads a cluster of its own and is nearer to B: A
    chooses first. x1 of A and B: (0.9 * 0 + 0.8 * 2) / 1.7 = 0.9412; B decays to 0.8 / 3 = 0.2667.
    """
    a, b, c = ([left, 0.0, left + 10, 10.0] for left in (0.0, 2.0, 3.5))
    boxes, scores, _ = vote([c, b, a], [last, 0.8, 0.9], 0.6)
    assert boxes == approx([[0.9412, 0, 10.9412, 10], c, b])
    assert scores == pytest.approx([0.9, last, 0.8 / 3])


def test_members_do_not_suppress_each_other():
    """Decayed ones stay however they overlap: heights 8 and 8.1 under 10, IoUs 0.8 and 0.81.

    0.7 * 0.2 = 0.14 and 0.6 * 0.19 = 0.114.
    """
    near = [0, 0, 10, 8.1]
    boxes, scores, _ = vote([TEN, EIGHT, near], [0.9, 0.7, 0.6])
    assert boxes[1:] == approx([EIGHT, near]) and scores[1:] == pytest.approx([0.14, 0.114])


def test_best_first():
    """Decayed members take the place that their new scores give them, among all classes.

    Class 1: heights 10 (0.9) and 8 (0.8) -> 0.9 and 0.8 * 0.2 = 0.16. Class 0: 0.5 and 0.1.
    """
    apart = [[30, 0, 40, 10], [50, 0, 60, 10]]
    _, scores, classes = vote([*apart, TEN, EIGHT], [0.1, 0.5, 0.9, 0.8], 0.66, [0, 0, 1, 1])
    assert scores == pytest.approx([0.9, 0.5, 0.16, 0.1]) and classes == [1, 0, 1, 0]


# -- against the loop ------------------------------------------------------------------------------


def random_detections(seed, count=60, spread=30.0):
    """Overlapping boxes (N, 4), scores without ties (N,), three classes (N,)."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * spread
    size = torch.rand(count, 2, generator=generator) * 20 + 15
    scores = (torch.randperm(count, generator=generator) + 1) / (count + 1)
    classes = torch.randint(0, 3, (count,), generator=generator)
    return torch.cat([low, low + size], 1), scores, classes


def assert_equal_to_loop(detections, threshold, soft, **options):
    expected = box_voting_loop(*(part.tolist() for part in detections), threshold, soft, **options)
    boxes, scores, classes = box_voting(*detections, threshold, soft=soft, **options)
    assert len(boxes) == len(expected)
    assert scores.tolist() == pytest.approx([score for _, score, _ in expected], abs=1e-5)
    assert classes.tolist() == [class_id for _, _, class_id in expected]
    wanted = torch.tensor([box for box, _, _ in expected])
    assert torch.allclose(boxes, wanted, atol=1e-3)
    return len(expected)


@each_seed(20)
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.66, 0.9])
def test_matches_the_loop(threshold, soft, seed):
    """Positions of three classes of 20 boxes; at 0.1 to 0.66 some meet, not all."""
    count = assert_equal_to_loop(random_detections(seed), threshold, soft)
    assert threshold > 0.66 or soft or 3 < count < 60


@each_seed(20)
@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.75])
def test_matches_the_loop_on_a_grid(threshold, seed):
    """Whole coordinates: some IoUs are exactly 1/4, 1/2 or 3/4; scores of which no products tie."""
    boxes, scores, classes = random_detections(seed, spread=2.0)
    boxes, scores = (boxes / 6).round(), scores.sin()
    assert_equal_to_loop((boxes, scores, classes), threshold, True, min_score=0.1)


@pytest.mark.parametrize("count", [1000, 1001])
def test_matches_the_loop_on_many(count):
    """NMS handles up to 1,000 boxes in another way than more."""
    detections = random_detections(0, count, spread=200.0)
    assert_equal_to_loop(detections, 0.5, True)


# -- extreme input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [True, False])
def test_nothing(soft):
    boxes, scores, classes = box_voting(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.66, soft=soft
    )
    assert boxes.shape == (0, 4) and scores.shape == classes.shape == (0,)
    assert classes.dtype == torch.int64


@pytest.mark.parametrize("soft", [True, False])
def test_one_box(soft):
    assert vote([NINE], [0.3], classes=[4], soft=soft) == (
        [NINE],
        torch.tensor([0.3]).tolist(),
        [4],
    )


def test_boxes_without_area():
    """Their IoU to anything is 0, to copies of themselves too: they stay, and no NaN is there."""
    point, line = [3.0, 3, 3, 3], [0.0, 0, 10, 0]
    boxes, scores, _ = vote([point, point, line, line, TEN], [0.9, 0.8, 0.7, 0.6, 0.5])
    assert boxes == [point, point, line, line, TEN]
    assert scores == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])


def test_scores_of_nothing():
    """A mean has no weights then: the head stays where it is; 0 * 0.2 is less than 0.05."""
    boxes, scores, _ = vote([TEN, EIGHT, EIGHT], [0.0, 0.0, 0.0])
    assert len(boxes) == 1 and boxes[0] in (TEN, EIGHT) and scores == [0.0]
    boxes, scores, _ = vote([TEN, EIGHT], [0.5, 0.0])
    assert boxes == approx([TEN]) and scores == [0.5]


def test_half_precision_comes_back_in_single():
    """Coordinates up to 1,025 would lose their fractions in float16 means."""
    parts = torch.tensor([[1000.0, 0, 1024, 20], [1001.0, 0, 1025, 20]]), torch.tensor([0.5, 0.25])
    classes = torch.tensor([1, 1])
    boxes, scores, _ = box_voting(*(part.half() for part in parts), classes, 0.66)
    assert boxes.dtype == scores.dtype == torch.float32
    assert torch.allclose(boxes[0], torch.tensor([1000 + 1 / 3, 0, 1024 + 1 / 3, 20]))


def test_input_stays_as_it_is():
    detections = random_detections(0)
    copies = [part.clone() for part in detections]
    box_voting(*detections, 0.5)
    assert all(map(torch.equal, detections, copies))


def test_80_classes_of_a_large_image():
    """Clusters of 3 in each of 80 classes, 3,000 pixels to the right: nothing is lost or mixed.

    Scores by class k: 0.9, 0.8, 0.7 less k / 1000; boxes of 40 pixels, 2 pixels apart: IoU to the
    first one 38 / 42 = 0.905 twice.
    """
    boxes, scores, classes = [], [], []
    for k in range(80):
        for shift, score in ((0, 0.9), (2, 0.8), (-2, 0.7)):
            boxes.append([2900 + shift, 10.0 * k, 2940 + shift, 10.0 * k + 40])
            scores.append(score - k / 1000)
            classes.append(k)
    found, best, labels = vote(boxes, scores, 0.66, classes, soft=False)
    assert labels == list(range(80)) and best == pytest.approx([0.9 - k / 1000 for k in range(80)])
    for k, box in enumerate(found):
        shift = 2 * (0.8 - 0.7) / (2.4 - 3 * k / 1000)
        expected = [2900 + shift, 10 * k, 2940 + shift, 10 * k + 40]
        assert box == pytest.approx(expected, abs=2e-3)


# -- invariances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("soft", [True, False])
def test_order_of_the_input_does_not_matter(soft, seed):
    detections = random_detections(seed)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    expected = box_voting(*detections, 0.5, soft=soft)
    found = box_voting(*(part[order] for part in detections), 0.5, soft=soft)
    assert torch.allclose(found[0], expected[0], atol=1e-4)
    assert torch.equal(found[1], expected[1]) and torch.equal(found[2], expected[2])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("x, y", [(2.0, 0.5), (3.7, 0.9)])
def test_scale_of_the_image_does_not_matter(x, y, seed):
    """IoU is the same in any frame, so boxes may be scaled before or after the vote."""
    boxes, scores, classes = random_detections(seed)
    factors = torch.tensor([x, y, x, y])
    expected = box_voting(boxes, scores, classes, 0.5)
    found = box_voting(boxes * factors, scores, classes, 0.5)
    assert torch.allclose(found[0], expected[0] * factors, atol=1e-3)
    assert torch.allclose(found[1], expected[1], atol=1e-5) and torch.equal(found[2], expected[2])


@pytest.mark.parametrize("soft", [True, False])
def test_scores_never_rise_and_boxes_stay_within(soft):
    """A mean lies within its members; of one class the best score stays the best."""
    boxes, scores, classes = random_detections(3)
    found, kept, labels = box_voting(boxes, scores, classes, 0.3, soft=soft)
    assert (kept.diff() <= 0).all() and math.isclose(kept[0], scores.max(), rel_tol=1e-6)
    for k in range(3):
        low, high = boxes[classes == k].amin(0), boxes[classes == k].amax(0)
        assert ((found[labels == k] >= low - 1e-4) & (found[labels == k] <= high + 1e-4)).all()


def test_boxes_beyond_the_edge_do_not_vote_with_another_class():
    """torchvision's shift by class would put the second box on the first one."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [-11, -11, -1, -1]])
    found = box_voting(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.5)
    torch.testing.assert_close(found[0], boxes)
    torch.testing.assert_close(found[1], torch.tensor([0.9, 0.8]))
