"""Box voting by loops, in plain Python numbers: step 4 of ATSS's multi-scale test."""

from __future__ import annotations

from tests.reference.boxes import Box, iou

Detection = tuple[Box, float, int]


def box_voting_loop(
    boxes: list[Box],
    scores: list[float],
    classes: list[int],
    threshold: float,
    soft: bool,
    min_score: float = 0.05,
) -> list[Detection]:
    """(box, score, class) of what the vote leaves, best first."""
    found: list[Detection] = []
    for class_id in sorted(set(classes)):
        rest = [i for i in range(len(boxes)) if classes[i] == class_id]
        rest.sort(key=lambda i: -scores[i])
        while rest:
            top = rest.pop(0)
            members = [i for i in rest if iou(boxes[top], boxes[i]) >= threshold]
            rest = [i for i in rest if i not in members]
            found.append((mean_box([top, *members], boxes, scores), scores[top], class_id))
            for i in members if soft else []:
                score = scores[i] * (1 - iou(boxes[top], boxes[i]))
                if score >= min_score:
                    found.append((boxes[i], score, class_id))
    return sorted(found, key=lambda detection: -detection[1])


def mean_box(cluster: list[int], boxes: list[Box], scores: list[float]) -> Box:
    """Weighted by scores; the first box where it is alone or where all scores are 0."""
    total = sum(scores[i] for i in cluster)
    if len(cluster) == 1 or total == 0:
        return boxes[cluster[0]]
    x1, y1, x2, y2 = (sum(scores[i] * boxes[i][k] for i in cluster) / total for k in range(4))
    return x1, y1, x2, y2
