"""What every assigner returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

BACKGROUND = -1
IGNORE = -2


class Assignment(NamedTuple):
    """Which box each location answers for.

    gt_index: (R,) int64 index of the box; BACKGROUND or IGNORE where there is none.
    quality: (R,) float32 IoU of the prior with its box; 0 elsewhere.
    """

    gt_index: Tensor
    quality: Tensor
