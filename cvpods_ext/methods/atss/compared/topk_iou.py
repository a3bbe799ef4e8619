"""The k best anchors of every box by IoU: "TOPK" in the code of ATSS (arXiv:1912.02424)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvpods.structures.geometry import as_columns, as_rows, centers, iou, iou_table, is_inside
from cvpods.structures.slices import slices
from cvpods_ext.kernels.assignment import Assignment, all_background, best_gt


@torch.no_grad()
def topk_iou_assign(
    anchors: Tensor,
    level_sizes: Sequence[int],
    gt_boxes: Tensor,
    *,
    topk: int = 9,
    inside: float = 0.0,
) -> Assignment:
    """Assign to every box the anchors that overlap it most.

    1. Candidates of a box: the `topk` anchors, of all levels together, of the highest
       IoU - distance / (1000 * largest distance in the image). The distance is that of centres; it
       decides between equal IoUs, such as 0.
    2. Positive: a candidate with its centre strictly inside the box.
    3. An anchor that is positive for several boxes is assigned to the one of the highest IoU (the
       first of equals). All others are background.

    Args:
        anchors: (R, 4) xyxy, pixels of the padded input.
        level_sizes: as for the other assigners; levels play no part here.
        gt_boxes: (M, 4) xyxy, pixels of the padded input.
        topk: candidates per box.
        inside: pixels by which the centre must lie inside the box.

    Returns:
        Assignment(gt_index (R,), quality (R,)).

    Raises:
        ValueError: topk < 1.

    Differs from the published code: continuous boxes, without the legacy one pixel in widths;
    inside means a distance > 0, not > 0.01; a box without area has no anchors.
    """
    if topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}.")
    anchors, gt_boxes = anchors.float(), gt_boxes.float()
    if len(gt_boxes) == 0 or len(anchors) == 0:
        return all_background(anchors)
    parts = list(slices(len(gt_boxes), len(anchors), anchors.device))
    largest = torch.stack([_distances(anchors, gt_boxes[part]).amax() for part in parts]).amax()
    candidates = torch.cat([_best(anchors, gt_boxes[part], largest, topk) for part in parts])
    boxes, chosen = gt_boxes[:, None], anchors[candidates]  # (M, 1, 4), (M, k, 4)
    has_center = is_inside(centers(chosen), boxes, inside)  # (M, k)
    return best_gt(len(anchors), candidates, torch.where(has_center, iou(boxes, chosen), -1.0))


def _distances(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    """Return the distances (M, R) of the centres, in pixels."""
    # Exact ones; cdist's faster way by matrix products loses digits.
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(centers(gt_boxes), centers(anchors), compute_mode=exact)


def _best(anchors: Tensor, gt_boxes: Tensor, largest: Tensor, topk: int) -> Tensor:
    """Return the candidates (M, k) of each box, by IoU - distance / (1000 * largest)."""
    preference = iou_table(as_rows(gt_boxes), as_columns(anchors))
    preference -= _distances(anchors, gt_boxes) / (1000 * largest.clamp(min=1e-6))
    return preference.topk(min(topk, len(anchors)), dim=1).indices
