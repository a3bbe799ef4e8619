"""Candidates of a dense detector: the best scores of each level, before NMS.

They are rows of tensors (N, J), padded to the same J for all images of a batch, so that evaluation
and exported graphs share this code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cvpods.modeling.meta_arch.scores import Scores

# Score of a row without a candidate; real scores lie in [0, 1].
NO_CANDIDATE = -1.0


class Candidates(NamedTuple):
    """Boxes (N, J, 4) xyxy, scores (N, J) and classes (N, J) int64 of N images.

    Rows without a candidate have the score NO_CANDIDATE; their boxes and classes mean nothing.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


def best_entries(scores: Scores, threshold: float, cap: int | None) -> tuple[Tensor, Tensor]:
    """Return the best entries of one level, given its scores (N, R_l, K).

    Args:
        threshold: entries whose `scores.threshold` is at or below it do not count.
        cap: the J entries of the highest `scores.ranking` that an image keeps at most; None for
            all that count.

    Returns:
        indices (N, J) int64 into the R_l * K entries of an image, best first, and their final
        scores (N, J), NO_CANDIDATE in the rows of images with fewer entries.
    """
    passed = (scores.threshold > threshold).flatten(1)
    ranking = scores.ranking.flatten(1)
    if cap is None or (ranking.device.type == "cpu" and not torch.compiler.is_compiling()):
        indices = _best_of_few(ranking, passed, cap)
        found = indices >= 0
        indices = indices.clamp(min=0)
    else:
        ranking = torch.where(passed, ranking, NO_CANDIDATE)
        best = ranking.topk(torch.sym_min(cap, ranking.shape[1]))
        indices, found = best.indices, best.values > NO_CANDIDATE
    final = scores.final.flatten(1).gather(1, indices)
    return indices, torch.where(found, final, NO_CANDIDATE)


def _best_of_few(ranking: Tensor, passed: Tensor, cap: int | None) -> Tensor:
    """Return indices (N, J) of the best entries that passed, best first, and -1 in other rows.

    Only entries that passed are ranked: few do, and a CPU ranks all of them several times slower.
    J is the largest number of entries that an image keeps.

    Args:
        ranking, passed: (N, E) scores and bool.
    """
    rows = []
    for values, is_passed in zip(ranking, passed, strict=True):
        entries = is_passed.nonzero().flatten()
        count = len(entries) if cap is None else min(cap, len(entries))
        rows.append(entries[values[entries].topk(count).indices])
    longest = max((len(row) for row in rows), default=0)
    return torch.stack([F.pad(row, (0, longest - len(row)), value=-1) for row in rows])
