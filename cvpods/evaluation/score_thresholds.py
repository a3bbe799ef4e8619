"""Score thresholds for display: the score of each class with the best F-measure on a data set."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cvpods.evaluation.coco_evaluation import iou_index, match_boxes


class ScoreThreshold(NamedTuple):
    """A score, and the F-measure, precision and recall of detections with at least that score."""

    score: float
    f_measure: float
    precision: float
    recall: float


def best_score_thresholds(
    ground_truth: dict[str, Any], detections: list[dict[str, Any]], iou: float = 0.5
) -> dict[str, ScoreThreshold]:
    """Find the score with the best F-measure of each class, by class name.

    The F-measure is 2 P R / (P + R). P and R are points of COCO's curve at `iou`: recall R in steps
    of 0.01, and the highest precision P at that recall or a higher one.

    Args:
        ground_truth: in COCO's json format.
        detections: in COCO's result format.
        iou: one of COCO's thresholds .50, .55, ... .95.

    Returns:
        {class name: threshold}, without the classes that have no objects or no correct detections.
    """
    evaluation, names = match_boxes(ground_truth, detections)
    at = iou_index(evaluation, iou)
    recall = np.asarray(evaluation.params.recThrs)
    best = {}
    for index, name in enumerate(names):
        precision = evaluation.eval["precision"][at, :, index, 0, -1]
        scores = evaluation.eval["scores"][at, :, index, 0, -1]
        f = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        f[precision <= 0] = 0.0
        top = int(f.argmax())
        if f[top] > 0:
            best[name] = ScoreThreshold(
                float(scores[top]), float(f[top]), float(precision[top]), float(recall[top])
            )
    return best
