"""Matcher: labels by intervals of the best IoU."""

import pytest
import torch

from cvpods.modeling.matcher import Matcher

THRESHOLDS, LABELS = (0.4, 0.5), (0, -1, 1)
QUALITY = torch.tensor(
    [
        [0.9, 0.10, 0.45, 0.4, 0.50, 0.0],
        [0.2, 0.35, 0.30, 0.1, 0.30, 0.0],
    ]
)


def test_hand_case():
    """Two ground truths, six predictions; best IoU of each and where it falls.

    prediction   0     1     2     3     4     5
    best IoU     0.9   0.35  0.45  0.4   0.5   0
    of           0     1     0     0     0     0
    interval     >=.5  <.4   .4-.5 .4-.5 >=.5  <.4
    label        1     0     -1    -1    1     0      a threshold belongs to the interval above it
    """
    matches, labels = Matcher(THRESHOLDS, LABELS)(QUALITY)
    assert matches.tolist() == [0, 1, 0, 0, 0, 0] and matches.dtype == torch.int64
    assert labels.tolist() == [1, 0, -1, -1, 1, 0] and labels.dtype == torch.int8


def test_low_quality_matches():
    """The second ground truth's best is prediction 1, with 0.35: an object although below 0.4."""
    matches, labels = Matcher(THRESHOLDS, LABELS, allow_low_quality_matches=True)(QUALITY)
    assert matches.tolist() == [0, 1, 0, 0, 0, 0] and labels.tolist() == [1, 1, -1, -1, 1, 0]


def test_low_quality_match_keeps_its_own_best():
    """Ground truth 1 likes prediction 0 best (0.2), which itself likes ground truth 0 (0.3)."""
    quality = torch.tensor([[0.3, 0.6], [0.2, 0.1]])
    matches, labels = Matcher(THRESHOLDS, LABELS, allow_low_quality_matches=True)(quality)
    assert matches.tolist() == [0, 0] and labels.tolist() == [1, 1]


def test_all_ties_are_low_quality_matches():
    quality = torch.tensor([[0.2, 0.1, 0.2]])
    _, labels = Matcher(THRESHOLDS, LABELS, allow_low_quality_matches=True)(quality)
    assert labels.tolist() == [1, 0, 1]


def test_ground_truth_that_overlaps_nothing_claims_nothing():
    """A box without area has IoU 0 with every anchor: not one of them is an object for it."""
    quality = torch.tensor([[0.6, 0.1, 0.0], [0.0, 0.0, 0.0]])
    _, labels = Matcher(THRESHOLDS, LABELS, allow_low_quality_matches=True)(quality)
    assert labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_and_tuples(kind):
    _, labels = Matcher(kind(THRESHOLDS), kind(LABELS))(QUALITY)
    assert labels.tolist() == [1, 0, -1, -1, 1, 0]


def test_one_threshold():
    _, labels = Matcher([0.5], [0, 1])(QUALITY)
    assert labels.tolist() == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize(("gt", "predictions"), [(0, 3), (2, 0), (0, 0)])
def test_empty(gt, predictions, low_quality):
    """Without ground truth every prediction has the first label."""
    matches, labels = Matcher(THRESHOLDS, (-1, 0, 1), low_quality)(torch.zeros(gt, predictions))
    assert matches.tolist() == [0] * predictions and labels.tolist() == [-1] * predictions
    assert matches.dtype == torch.int64 and labels.dtype == torch.int8


@pytest.mark.parametrize(
    ("thresholds", "labels", "message"),
    [
        ([0.4, 0.5], [0, 1], "one label more"),
        ([0.5, 0.4], [0, -1, 1], "increasing"),
        ([0.5], [0, 2], "-1, 0 or 1"),
    ],
)
def test_errors(thresholds, labels, message):
    with pytest.raises(ValueError, match=message):
        Matcher(thresholds, labels)


def test_low_quality_matches_that_are_reassigned():
    """Both boxes are nearest to the second prediction, 0.3 and 0.2: it keeps the first box as its
    own best, or takes the last that it is the best of. The first prediction, 0.25 with the first
    box, is the best of none."""
    quality = torch.tensor([[0.25, 0.3, 0.0], [0.1, 0.2, 0.0]])
    for reassign, expected in ((False, 0), (True, 1)):
        matcher = Matcher([0.4, 0.5], [0, -1, 1], True, reassign)
        matches, labels = matcher(quality)
        assert labels.tolist() == [0, 1, 0] and matches[1] == expected and matches[0] == 0


def test_reassigning_needs_some_overlap():
    """A box that overlaps nothing is nobody's, also of those that are objects of another."""
    quality = torch.tensor([[0.9, 0.2], [0.0, 0.0]])
    matches, labels = Matcher([0.4, 0.5], [0, -1, 1], True, True)(quality)
    assert (matches.tolist(), labels.tolist()) == ([0, 0], [1, 0])


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_nothing_to_reassign(shape):
    matches, labels = Matcher([0.4, 0.5], [0, -1, 1], True, True)(torch.zeros(shape))
    assert matches.shape == labels.shape == (shape[1],)


# -- in slices -------------------------------------------------------------------------------------


def whole(matcher, quality):
    """Faster R-CNN's rule on the whole matrix, written out: the matcher before it had slices."""
    best, matches = quality.max(dim=0)
    intervals = torch.bucketize(best, torch.tensor(matcher.thresholds), right=True)
    labels = torch.tensor(matcher.labels, dtype=torch.int8)[intervals]
    if matcher.allow_low_quality_matches:
        best_of_gt = quality.amax(dim=1, keepdim=True)
        is_best = (quality == best_of_gt) & (best_of_gt > 0)
        labels[is_best.any(dim=0)] = 1
        if matcher.reassign:
            order = torch.arange(1, len(quality) + 1)[:, None]
            last = (is_best * order).amax(dim=0) - 1
            matches = torch.where(last >= 0, last, matches)
    return matches, labels


@pytest.mark.parametrize("bound", [1, 60, 10_000])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("low_quality", "reassign"), [(False, False), (True, False), (True, True)])
def test_slices_change_nothing(monkeypatch, bound, ties, low_quality, reassign):
    """One row at a time, two, and all at once; with ties in columns, in rows, and across slices."""
    monkeypatch.setattr("cvpods.structures.slices.SLICE_ON_CPU", bound)
    matcher = Matcher(THRESHOLDS, LABELS, low_quality, reassign)
    for seed in range(20):
        torch.manual_seed(seed)
        quality = torch.rand(13, 30) * torch.rand(13, 1)
        quality = (quality * 5).round() / 5 if ties else quality
        quality[seed % 13] = 0.0  # a box that overlaps nothing
        matches, labels = matcher.by_rows(lambda part, q=quality: q[part], 13, 30, quality.device)
        expected, wanted = whole(matcher, quality)
        assert torch.equal(matches, expected) and torch.equal(labels, wanted)
        one, other = matcher(quality)
        assert torch.equal(one, expected) and torch.equal(other, wanted)


@pytest.mark.parametrize(("boxes", "anchors"), [(0, 5), (3, 0), (0, 0)])
def test_empty_slices(boxes, anchors):
    matcher = Matcher(THRESHOLDS, LABELS, True, True)
    table = torch.zeros(boxes, anchors)
    matches, labels = matcher.by_rows(lambda part: table[part], boxes, anchors, table.device)
    assert matches.tolist() == [0] * anchors and matches.dtype == torch.int64
    assert labels.tolist() == [0] * anchors and labels.dtype == torch.int8
