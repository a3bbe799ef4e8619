"""Pairs of a box and a location inside it: listed, cut into chunks, and reduced box by box.

AutoAssign and FeatureAlign weigh every location inside a box. Most locations lie in few boxes, so
that P listed pairs take far less memory than a table of all boxes x all locations.

Letters: N images, R locations of all levels, M boxes of the batch, K classes, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cvpods.structures.geometry import as_columns, as_rows, iou_table
from cvpods.structures.slices import slices
from cvpods_ext.kernels.segments import segment_logsumexp, segment_min_max, segment_sum

# Pairs of one chunk; a box with more of them is a chunk of its own.
PAIRS_AT_ONCE = 2**19


@dataclass(frozen=True)
class Pairs:
    """P pairs of a box and a location strictly inside it, sorted by box.

    box (P,) in [0, M) and location (P,) in [0, R): int64 indices of both.
    boxes: (M, 4) xyxy, pixels; classes: (M,) int64 in [0, K); image: (M,) int64 in [0, N).
    num_images, num_locations: N and R.
    """

    box: Tensor
    location: Tensor
    boxes: Tensor
    classes: Tensor
    image: Tensor
    num_images: int
    num_locations: int

    @cached_property
    def entry(self) -> Tensor:
        """Index (P,) of each pair's location among the locations (N * R) of all images."""
        return self.per_box(self.image) * self.num_locations + self.location

    @cached_property
    def class_of_box(self) -> Tensor:
        """Class (P,) of each pair's box."""
        return self.per_box(self.classes)

    def per_box(self, values: Tensor) -> Tensor:
        """Return the value (P, ...) of each pair's box, given values (M, ...) of the boxes."""
        return values.index_select(0, self.box)

    def per_location(self, values: Tensor) -> Tensor:
        """Return the value (P, ...) of each pair's location, given values (R, ...)."""
        return values.index_select(0, self.location)

    def per_output(self, outputs: Tensor) -> Tensor:
        """Return the output (P, C) at each pair's location, given outputs (N, R, C)."""
        return outputs.flatten(0, 1).index_select(0, self.entry)

    def per_class_output(self, outputs: Tensor) -> Tensor:
        """Return the output (P,) for the class of each pair's box, given outputs (N, R, K)."""
        return outputs.flatten().index_select(0, self.entry * outputs.shape[2] + self.class_of_box)

    def per_level_and_class(self, values: Tensor, levels: Tensor) -> Tensor:
        """Return the value (P, C) for the level and the class of each pair.

        Args:
            values: (L, K, C); levels: (R,) int64 level of each location, in [0, L).
        """
        row = self.per_location(levels) * values.shape[1] + self.class_of_box
        return values.flatten(0, 1).index_select(0, row)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum (M,) over the locations of each box, given values (P,)."""
        return segment_sum(values, self.box, len(self.boxes))

    def logsumexp(self, values: Tensor) -> Tensor:
        """Return log sum exp (M,) over the locations of each box, given values (P,)."""
        return segment_logsumexp(values, self.box, len(self.boxes))

    def min_max(self, values: Tensor) -> Tensor:
        """Return values (P,) scaled to [0, 1] over the locations of each box, without gradient."""
        return segment_min_max(values, self.box, len(self.boxes))

    def sum_per_image(self, values: Tensor) -> Tensor:
        """Return the sum (N,) over the pairs of each image, given values (P,)."""
        return segment_sum(values, self.per_box(self.image), self.num_images)


@torch.no_grad()
def inside_pairs(
    points: Tensor, boxes: Tensor, classes: Tensor, elements_at_once: int | None = None
) -> Pairs:
    """List the pairs of one image with min(l, t, r, b) > 0: the location lies strictly inside.

    Args:
        points: (R, 2), pixels.
        boxes: (M, 4) xyxy, pixels; classes: (M,) int64.
        elements_at_once: size of the tables that the pairs are read from.
    """
    x, y = points.t().contiguous()
    none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    parts = [(none, none)]
    for part in slices(len(boxes), len(points), boxes.device, elements=elements_at_once):
        left, top, right, bottom = boxes[part].t().unsqueeze(-1)
        inside = (x > left).logical_and_(x < right).logical_and_(y > top).logical_and_(y < bottom)
        box, location = inside.nonzero(as_tuple=True)
        parts.append((box.add_(part.start), location))
    box, location = (torch.cat(indices) for indices in zip(*parts, strict=True))
    return Pairs(box, location, boxes, classes, torch.zeros_like(classes), 1, len(points))


def join(images: Sequence[Pairs]) -> Pairs:
    """Return the pairs of a batch, given those of each image; boxes are numbered through."""
    box, first = [], 0
    for pairs in images:
        box.append(pairs.box + first)
        first += len(pairs.boxes)
    return Pairs(
        torch.cat(box),
        torch.cat([pairs.location for pairs in images]),
        torch.cat([pairs.boxes for pairs in images]),
        torch.cat([pairs.classes for pairs in images]),
        torch.cat([torch.full_like(pairs.image, n) for n, pairs in enumerate(images)]),
        len(images),
        images[0].num_locations,
    )


def chunks(pairs: Pairs, at_once: int = PAIRS_AT_ONCE) -> Iterator[Pairs]:
    """Cut pairs between boxes into chunks of at most `at_once` pairs; yield at least one chunk.

    A box with more pairs is a chunk of its own. In a chunk, boxes are counted from its first.
    """
    count = len(pairs.boxes)
    if len(pairs.box) <= at_once:
        yield pairs
        return
    ends = pairs.box.bincount(minlength=count).cumsum(0).tolist()
    first = start = 0
    for box in range(1, count + 1):
        if box == count or ends[box] - start > at_once:
            part, boxes = slice(start, ends[box - 1]), slice(first, box)
            yield Pairs(
                pairs.box[part] - first,
                pairs.location[part],
                pairs.boxes[boxes],
                pairs.classes[boxes],
                pairs.image[boxes],
                pairs.num_images,
                pairs.num_locations,
            )
            first, start = box, part.stop


def in_chunks(
    function: Callable[..., tuple[Tensor, ...]],
    images: Sequence[Pairs],
    *arguments: Any,
    at_once: int = PAIRS_AT_ONCE,
) -> tuple[Tensor, ...]:
    """Return sums of the tensors that `function(pairs, *arguments)` returns for chunks of a batch.

    The pairs of all images are joined and cut into chunks of at most `at_once` pairs. Memory is
    bounded by one chunk: each keeps its inputs alone, and is computed a second time for the
    gradient. A single chunk is computed once.
    """
    parts = list(chunks(join(images), at_once))
    if len(parts) == 1:
        return function(parts[0], *arguments)
    results = [
        checkpoint(function, part, *arguments, use_reentrant=False, preserve_rng_state=False)
        for part in parts
    ]
    return tuple(torch.stack(terms).sum(dim=0) for terms in zip(*results, strict=True))


@torch.no_grad()
def best_iou(
    predicted: Tensor, gt_boxes: Tensor, location: Tensor, elements_at_once: int | None = None
) -> Tensor:
    """Return the largest IoU (R,) of each predicted box (R, 4) with any of the boxes (M, 4).

    Args:
        location: (P,) int64, the locations that it is computed for; others get 0. May repeat.
        elements_at_once: size of the slices.
    """
    is_needed = torch.zeros(len(predicted), dtype=torch.bool, device=predicted.device)
    is_needed[location] = True
    chosen = is_needed.nonzero().flatten()
    columns, rows = as_columns(predicted[chosen]), as_rows(gt_boxes)
    best = predicted.new_zeros(len(predicted))
    for part in slices(len(chosen), len(gt_boxes), predicted.device, elements=elements_at_once):
        best[chosen[part]] = iou_table(rows, columns[:, :, part]).amax(dim=0)
    return best


@torch.no_grad()
def min_max_table(
    pairs: Pairs, values: Tensor, num_classes: int, at_once: int = PAIRS_AT_ONCE
) -> Tensor:
    """Return a table (R, K) of one image: values scaled to [0, 1] over the locations of each box.

    A pair fills the row of its location and the column of its box's class. Where boxes of one class
    share a location, the last box counts; entries without a pair are 0.

    Args:
        values: (R,) of the locations.
        at_once: pairs of a chunk.
    """
    size = len(values) * num_classes
    last = torch.zeros(size, dtype=torch.int64, device=values.device)
    table = values.new_zeros(size)
    first = 1  # order of the first box of a chunk; 0 is before all boxes
    for part in chunks(pairs, at_once):
        scaled = part.min_max(part.per_location(values))
        entry = part.location * num_classes + part.class_of_box
        order = part.box + first
        is_last = last.scatter_reduce_(0, entry, order, "amax")[entry] == order
        table[entry[is_last]] = scaled[is_last]
        first += len(part.boxes)
    return table.view(-1, num_classes)
