"""Who may answer for which box in AutoAssign (arXiv:2007.03496) and FeatureAlign.

Every location strictly inside a box may, on every level; a learned Gaussian around the centre of
the box, the center prior, weighs them. Only these pairs of box and location are ever listed: most
locations lie in few boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cvpods.utils.slices import slices
from cvpods_ext.assigners.assignment import centers
from cvpods_ext.assigners.segments import segment_min_max
from cvpods_ext.assigners.slices import as_columns, as_rows, slice_iou

# Pairs worked on at once (unless one box has more), so that their number bounds the memory.
PAIRS_AT_ONCE = 2**19


class Pairs(NamedTuple):
    """P pairs of a box and a location inside it, box after box: two (P,) int64 indices."""

    box: Tensor
    location: Tensor


@torch.no_grad()
def inside_pairs(points: Tensor, boxes: Tensor) -> Pairs:
    """All pairs with min(l, t, r, b) > 0: the location lies strictly inside the box.

    Args:
        points: (R, 2), pixels; boxes: (M, 4) xyxy, pixels.
    """
    x, y = points.t().contiguous()
    none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    pairs = [(none, none)]
    for part in slices(len(boxes), len(points), boxes.device):
        left, top, right, bottom = boxes[part].t().unsqueeze(-1)
        inside = (x > left).logical_and_(x < right).logical_and_(y > top).logical_and_(y < bottom)
        box, location = inside.nonzero(as_tuple=True)
        pairs.append((box.add_(part.start), location))
    return Pairs(*(torch.cat(indices) for indices in zip(*pairs, strict=True)))


def chunks(pairs: Pairs, num_boxes: int) -> Iterator[tuple[slice, Pairs]]:
    """Cut between boxes into (boxes, their pairs) of at most PAIRS_AT_ONCE pairs; at least one.

    A box with more pairs goes alone. Boxes of a chunk count from its first.
    """
    if len(pairs.box) <= PAIRS_AT_ONCE:
        yield slice(0, num_boxes), pairs
        return
    ends = pairs.box.bincount(minlength=num_boxes).cumsum(0).tolist()
    first = start = 0
    for box in range(1, num_boxes + 1):
        if box == num_boxes or ends[box] - start > PAIRS_AT_ONCE:
            part = slice(start, ends[box - 1])
            yield slice(first, box), Pairs(pairs.box[part] - first, pairs.location[part])
            first, start = box, part.stop


def log_center_prior(
    points: Tensor, strides: Tensor, boxes: Tensor, mu: Tensor, sigma: Tensor
) -> Tensor:
    """log G, G = exp(-(d - mu)^2 / (2 sigma^2)) over x and y (AutoAssign, Sec. 3.2).

    d is the offset of the location from the centre of the box, in strides of its level.

    Args:
        points: (P, 2) and strides: (P,) of the locations; boxes: (P, 4) xyxy, pixels.
        mu, sigma: (P, 2), in strides; sigma^2 is kept above 1e-12.

    Returns:
        (P,) <= 0.
    """
    offset = (points - centers(boxes)) / strides[:, None]
    variance = sigma.square().clamp(min=1e-12)
    return -((offset - mu).square() / (2 * variance)).sum(dim=1)


@torch.no_grad()
def found_objects(
    predicted: Tensor, pairs: Pairs, gt_boxes: Tensor, gt_classes: Tensor, num_classes: int
) -> Tensor:
    """A (R, K) of one image: how surely a location's predicted box is an object of a class.

    1 - A_jc weighs location j as a negative of class c (AutoAssign, Sec. 3.3). A_jc = f_ij where
    box i of class c contains j, else 0; f_ij goes from 0 to 1 over the locations of box i as
    1 / (1 - IoU_j) does. IoU_j is the largest of the predicted box with any box of the image. Where
    boxes of one class share a location, the last of them counts.

    Args:
        predicted: (R, 4) xyxy, pixels.
        pairs: inside_pairs of the image.
        gt_boxes: (M, 4) xyxy, pixels; gt_classes: (M,) int64 in [0, K).
    """
    iou = best_iou(predicted, gt_boxes, pairs.location)
    size = len(predicted) * num_classes
    last = torch.zeros(size, dtype=torch.int64, device=predicted.device)
    table = predicted.new_zeros(size)
    for boxes, (box, location) in chunks(pairs, len(gt_boxes)):
        f = segment_min_max(1 / (1 - iou[location]).clamp(min=1e-12), box, boxes.stop - boxes.start)
        entry = location * num_classes + gt_classes[boxes][box]
        order = box + (boxes.start + 1)
        is_last = last.scatter_reduce_(0, entry, order, "amax")[entry] == order
        table[entry[is_last]] = f[is_last]
    return table.view(-1, num_classes)


def best_iou(predicted: Tensor, gt_boxes: Tensor, location: Tensor) -> Tensor:
    """(R,) the largest IoU of each predicted box (R, 4) with any box; 0 for those not asked for.

    Args:
        location: (P,) int64, the locations that are asked for; may repeat.
    """
    asked = torch.zeros(len(predicted), dtype=torch.bool, device=predicted.device)
    asked[location] = True
    chosen = asked.nonzero().flatten()
    columns, rows = as_columns(predicted[chosen]), as_rows(gt_boxes)
    best = predicted.new_zeros(len(predicted))
    for part in slices(len(chosen), len(gt_boxes), predicted.device):
        best[chosen[part]] = slice_iou(rows, columns[:, :, part]).amax(dim=0)
    return best
