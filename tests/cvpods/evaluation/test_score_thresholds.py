"""The score of the best F-measure per class, compared with hand cases and a slow loop."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from cvpods.evaluation.score_thresholds import ScoreThreshold, best_score_thresholds
from tests.seeds import each_seed


def truth_of(boxes, classes=(1,), images=1):
    """Return COCO's json with objects (image, class, xywh)."""
    annotations = [
        {
            "id": i,
            "image_id": image,
            "category_id": label,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i, (image, label, box) in enumerate(boxes, 1)
    ]
    return {
        "images": [{"id": i, "width": 2000, "height": 2000} for i in range(1, images + 1)],
        "categories": [{"id": label, "name": f"class {label}"} for label in classes],
        "annotations": annotations,
    }


def found(image, label, box, score):
    box = [float(value) for value in box]
    return {"image_id": image, "category_id": label, "bbox": box, "score": score}


def at(place, width=10):
    """Return a box; boxes at different positions do not overlap."""
    return (50 * place, 0, width, 10)


def test_hand_case():
    """4 objects; detections by score, with precision, recall, F = 2 P R / (P + R) from there up.

    .9 right   1/1   1/4   .400
    .8 right   2/2   2/4   .667
    .7 wrong   2/3   2/4   .571
    .6 right   3/4   3/4   .750
    .5 wrong   3/5   3/4   .667
    .3 right   4/7   4/4   .727   (after another wrong one at .4)
    """
    truth = truth_of([(1, 1, at(i)) for i in range(4)])
    places = {0.9: 0, 0.8: 1, 0.7: 10, 0.6: 2, 0.5: 11, 0.4: 12, 0.3: 3}
    detections = [found(1, 1, at(place), score) for score, place in places.items()]
    (best,) = best_score_thresholds(truth, detections).values()
    assert best == pytest.approx(ScoreThreshold(0.6, 0.75, 0.75, 0.75))
    assert best._fields == ("score", "f_measure", "precision", "recall")
    assert all(type(value) is float for value in best)  # json takes them


def test_recall_comes_in_steps_of_a_hundredth():
    """Detect 1 of 3 objects: recall 1/3, in COCO's steps 0.33; F = 2 * 1 * .33 / 1.33."""
    truth = truth_of([(1, 1, at(i)) for i in range(3)])
    (best,) = best_score_thresholds(truth, [found(1, 1, at(0), 0.4)]).values()
    assert best == pytest.approx(ScoreThreshold(0.4, 0.66 / 1.33, 1.0, 0.33))


def test_overlap_decides():
    """Boxes 10 and 6 wide: IoU 0.6, enough at 0.5 and at 0.6, not at 0.65."""
    truth = truth_of([(1, 1, at(0))])
    detections = [found(1, 1, at(0, width=6), 0.7)]
    assert best_score_thresholds(truth, detections)["class 1"].f_measure == pytest.approx(1.0)
    assert "class 1" in best_score_thresholds(truth, detections, iou=0.55)
    assert best_score_thresholds(truth, detections, iou=0.65) == {}


def test_an_object_is_matched_once():
    """Count the second detection of an object as wrong: F = 1 at .8, and 2/3 at .5."""
    truth = truth_of([(1, 1, at(0))])
    detections = [found(1, 1, at(0), 0.5), found(1, 1, at(0), 0.8)]
    best = best_score_thresholds(truth, detections)["class 1"]
    assert best == pytest.approx(ScoreThreshold(0.8, 1.0, 1.0, 1.0))


def test_classes_without_correct_detections_are_left_out():
    """Class 1 is detected. 2 has no object, 3 no detection, 4 only wrong ones, 5 neither."""
    truth = truth_of([(1, label, at(label)) for label in (1, 3, 4)], classes=(5, 4, 3, 2, 1))
    detections = [found(1, 1, at(1), 0.7), found(1, 2, at(2), 0.9), found(1, 4, at(20), 0.9)]
    assert list(best_score_thresholds(truth, detections)) == ["class 1"]


def test_no_detections_at_all():
    assert best_score_thresholds(truth_of([(1, 1, at(0))]), []) == {}


def test_no_objects_at_all():
    assert best_score_thresholds(truth_of([]), [found(1, 1, at(0), 0.9)]) == {}


def test_crowds_count_neither_way():
    """Detections inside a crowd are not wrong, and a missed crowd does not count."""
    truth = truth_of([(1, 1, at(0)), (1, 1, (500, 0, 400, 400))])
    truth["annotations"][1]["iscrowd"] = 1
    detections = [found(1, 1, (510, 10, 50, 50), 0.9), found(1, 1, at(0), 0.6)]
    best = best_score_thresholds(truth, detections)["class 1"]
    assert best == pytest.approx(ScoreThreshold(0.6, 1.0, 1.0, 1.0))


# -- a slow loop -----------------------------------------------------------------------------------

CLASSES = (2, 5, 9)


def scene(seed):
    """Return 6 images with boxes detected nearby (right), far off (wrong), twice, or not."""
    random = np.random.default_rng(seed)
    objects, detections = [], []
    for image in range(1, 7):
        for place in range(random.integers(1, 7)):
            box = (150 * place, 0, random.uniform(40, 90), random.uniform(40, 90))
            label = int(random.choice(CLASSES))
            objects.append((image, label, box))
            for _ in range(random.choice([0, 1, 1, 1, 2])):
                shift = random.choice([0, 5, 15, 40], p=[0.3, 0.3, 0.2, 0.2])
                moved = (box[0] + shift, *box[1:])
                wrong = random.random() < 0.15
                answer = int(random.choice(CLASSES)) if wrong else label
                score = random.beta(2, 5) if shift > 15 or wrong else random.beta(4, 3)
                detections.append(found(image, answer, moved, float(score)))
    return truth_of(objects, CLASSES, images=6), detections


def iou_of(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    return inner / (a[2] * a[3] + b[2] * b[3] - inner)


def curve(truth, detections, label, iou=0.5):
    """Return {score: (F, P, R)} with every detection's score as the threshold, by definition.

    From the best detection down, each takes the free object of its image and class that it
    overlaps most, if by `iou` or more.
    """
    objects = [a for a in truth["annotations"] if a["category_id"] == label]
    ranked = sorted((d for d in detections if d["category_id"] == label), key=lambda d: -d["score"])
    free, points, right = list(objects), {}, 0
    for number, detection in enumerate(ranked, 1):
        near = [a for a in free if a["image_id"] == detection["image_id"]]
        top = max(near, key=lambda a: iou_of(a["bbox"], detection["bbox"]), default=None)
        if top is not None and iou_of(top["bbox"], detection["bbox"]) >= iou:
            right += 1
            free.remove(top)
        precision, recall = right / number, right / max(len(objects), 1)
        f = 2 * precision * recall / max(precision + recall, 1e-12)
        points[detection["score"]] = (f, precision, recall)
    return points


@pytest.mark.parametrize("iou", [0.5, 0.75])
@each_seed(10)
def test_matches_loop(seed, iou):
    """Recall is rounded down to a hundredth; that moves F by less than a hundredth.

    So the threshold's true F is within 0.01 of the best of all; its precision is exact.
    """
    truth, detections = scene(seed)
    best = best_score_thresholds(truth, detections, iou)
    for label in CLASSES:
        points = curve(truth, detections, label, iou)
        top = max((f for f, _, _ in points.values()), default=0)
        assert (f"class {label}" in best) == (top > 0)
        if top == 0:
            continue
        score, f_measure, precision, recall = best[f"class {label}"]
        f, exact_precision, exact_recall = points[score]
        assert f >= top - 0.01
        assert f - 0.01 <= f_measure <= f + 1e-9
        assert precision == pytest.approx(exact_precision)
        assert exact_recall - 0.01 < recall <= exact_recall + 1e-9
        assert f_measure == pytest.approx(2 * precision * recall / (precision + recall))


def test_scenes_are_not_trivial():
    """Check that the best thresholds differ, and differ from the lowest score."""
    truth, detections = scene(0)
    best = best_score_thresholds(truth, detections)
    lowest = min(d["score"] for d in detections)
    assert len({t.score for t in best.values()}) == 3
    assert all(t.score > lowest and 0.3 < t.f_measure < 1 for t in best.values())


@pytest.mark.parametrize("seed", range(3))
def test_invariances(seed):
    """Permuted detections give the same thresholds; squared scores give squared ones."""
    truth, detections = scene(seed)
    best = best_score_thresholds(truth, detections)
    np.random.default_rng(seed).shuffle(detections)
    assert best_score_thresholds(truth, detections) == best
    squared = [{**d, "score": d["score"] ** 2} for d in detections]
    for name, threshold in best_score_thresholds(truth, squared).items():
        expected = best[name]._replace(score=best[name].score ** 2)
        assert threshold == pytest.approx(expected)


def test_input_is_not_changed():
    truth, detections = scene(1)
    before = copy.deepcopy((truth, detections))
    best_score_thresholds(truth, detections)
    assert (truth, detections) == before
