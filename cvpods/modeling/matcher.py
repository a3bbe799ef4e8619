"""Matcher by the IoU thresholds of Faster R-CNN and RetinaNet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from cvpods.structures.slices import slices
from cvpods.utils.errors import ConfigError


class Matcher:
    """Matcher that labels every prediction by its best IoU with a ground truth.

    Args:
        thresholds: increasing; they cut [0, inf) into len + 1 intervals [t_i, t_(i+1)).
        labels: one per interval: 1 object, 0 background, -1 ignored.
        allow_low_quality_matches: the best predictions of every ground truth become objects too,
            whatever their IoU; they keep the ground truth of their own best IoU.
        reassign: low-quality matches take the ground truth that they are best for instead, the last
            of several, as in mmdetection.

    Raises:
        ConfigError: thresholds are not increasing, or labels do not fit them.
    """

    def __init__(
        self,
        thresholds: Sequence[float],
        labels: Sequence[int],
        allow_low_quality_matches: bool = False,
        reassign: bool = False,
    ) -> None:
        if len(labels) != len(thresholds) + 1 or list(thresholds) != sorted(thresholds):
            raise ConfigError(
                "A Matcher must have increasing thresholds and one label more; got thresholds "
                f"{thresholds} and labels {labels}."
            )
        if not set(labels) <= {-1, 0, 1}:
            raise ConfigError(f"The labels of a Matcher must be -1, 0 or 1; got {labels}.")
        self.thresholds = list(thresholds)
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches
        self.reassign = reassign

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Match a quality matrix (M, R) of M ground truths and R predictions.

        Returns:
            matches (R,) int64 index of the best ground truth; labels (R,) int8.
        """
        num_gt, num_predictions = match_quality_matrix.shape
        all_rows = slice(0, num_gt)
        return self._match([(all_rows, match_quality_matrix)], num_gt, num_predictions)

    def by_rows(
        self,
        quality_of: Callable[[slice], Tensor],
        num_gt: int,
        num_predictions: int,
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """Match a quality matrix (M, R) that is computed in slices of rows, each used once.

        Args:
            quality_of: returns rows of the matrix.

        Returns:
            what __call__() returns for the complete matrix, bit for bit.
        """
        parts = ((part, quality_of(part)) for part in slices(num_gt, num_predictions, device))
        return self._match(parts, num_gt, num_predictions, device)

    def _match(
        self,
        parts: Iterable[tuple[slice, Tensor]],
        num_gt: int,
        num_predictions: int,
        device: torch.device | None = None,
    ) -> tuple[Tensor, Tensor]:
        best: _Best | None = None
        for part, table in parts:
            best = best or _Best(table)
            best.add(part, table)
            if self.allow_low_quality_matches and num_predictions:
                best.add_best_of_each(part, table, self.reassign)
        if best is None or num_gt == 0:
            at = device if best is None else best.matches.device
            matches = torch.zeros(num_predictions, dtype=torch.int64, device=at)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        bounds = best.quality.new_tensor(self.thresholds)
        intervals = torch.bucketize(best.quality, bounds, right=True)
        labels = torch.tensor(self.labels, dtype=torch.int8, device=intervals.device)[intervals]
        labels[best.is_best] = 1
        matches = torch.where(best.reassigned >= 0, best.reassigned, best.matches)
        return matches, labels


class _Best:
    """State of matching over a quality matrix (M, R) that arrives in slices of rows.

    quality, matches: (R,) the highest value of each column, and its row; the first of equals.
    is_best: (R,) whether a column holds the highest value of some row, above 0.
    reassigned: (R,) the last such row if `reassign`, otherwise -1.
    """

    def __init__(self, table: Tensor) -> None:
        count = table.shape[1]
        self.quality = table.new_full((count,), -torch.inf)
        self.matches = torch.zeros(count, dtype=torch.int64, device=table.device)
        self.is_best = torch.zeros(count, dtype=torch.bool, device=table.device)
        self.reassigned = torch.full_like(self.matches, -1)

    def add(self, part: slice, table: Tensor) -> None:
        """Add the rows `part` of the matrix, (m, R)."""
        if len(table) == 0:
            return
        quality, row = table.max(dim=0)
        # NaN counts as the highest, as in max(), and the first of equals stays.
        better = (quality > self.quality) | (quality.isnan() & ~self.quality.isnan())
        self.quality = torch.where(better, quality, self.quality)
        self.matches = torch.where(better, row + part.start, self.matches)

    def add_best_of_each(self, part: slice, table: Tensor, reassign: bool) -> None:
        """Note the columns of the highest value of each row."""
        if len(table) == 0:
            return
        highest = table.amax(dim=1, keepdim=True)
        is_best = (table == highest) & (highest > 0)
        self.is_best |= is_best.any(dim=0)
        if reassign:
            order = torch.arange(part.start + 1, part.stop + 1, device=table.device)[:, None]
            last = (is_best * order).amax(dim=0) - 1
            self.reassigned = torch.maximum(self.reassigned, last)
