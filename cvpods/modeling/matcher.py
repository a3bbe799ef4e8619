"""Matcher: the IoU thresholds of Faster R-CNN and RetinaNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvpods.utils.errors import ConfigError


class Matcher:
    """Labels every prediction by its best IoU with a ground truth.

    Args:
        thresholds: increasing; they cut [0, inf) into len + 1 intervals [t_i, t_(i+1)).
        labels: one per interval: 1 object, 0 background, -1 ignored.
        allow_low_quality_matches: the best predictions of every ground truth become objects too,
            whatever their IoU; they keep the ground truth of their own best IoU.
        reassign: they take the ground truth that they are the best of instead, the last of several,
            as in mmdetection.
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
                f"Matcher needs increasing thresholds, one label more; got {thresholds}, {labels}."
            )
        if not set(labels) <= {-1, 0, 1}:
            raise ConfigError(f"Matcher labels are -1, 0 or 1; got {labels}.")
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
        if num_gt == 0:
            matches = match_quality_matrix.new_zeros(num_predictions, dtype=torch.int64)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        quality, matches = match_quality_matrix.max(dim=0)
        bounds = quality.new_tensor(self.thresholds)
        intervals = torch.bucketize(quality, bounds, right=True)
        labels = torch.tensor(self.labels, dtype=torch.int8, device=quality.device)[intervals]
        if self.allow_low_quality_matches and num_predictions:
            best_of_gt = match_quality_matrix.amax(dim=1, keepdim=True)
            is_best = (match_quality_matrix == best_of_gt) & (best_of_gt > 0)
            labels[is_best.any(dim=0)] = 1
            if self.reassign:
                order = torch.arange(1, num_gt + 1, device=quality.device)[:, None]
                last = (is_best * order).amax(dim=0) - 1
                matches = torch.where(last >= 0, last, matches)
        return matches, labels
