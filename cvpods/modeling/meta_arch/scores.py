"""Scores of detections, combined from class score and quality (centerness, objectness)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from cvpods.utils.errors import ConfigError

# s is the class score, q the quality, both in [0, 1]:
#                 threshold    ranking      final
# "sqrt"          s            sqrt(s q)    sqrt(s q)    authors of FCOS and ATSS
# "sqrt_all"      sqrt(s q)    sqrt(s q)    sqrt(s q)    detectron2, torchvision
# "product"       s q          s q          s q          authors of AutoAssign
# "class_first"   s            s            s q          mmdetection
SCORE_TYPES = ("sqrt", "sqrt_all", "product", "class_first")


class Scores(NamedTuple):
    """Scores (..., R_l, K) of candidates in each step.

    threshold: compared with the score threshold.
    ranking: ranks the candidates of a level before NMS.
    final: score in NMS and of a detection.
    """

    threshold: Tensor
    ranking: Tensor
    final: Tensor


def combine_scores(score_type: str, class_score: Tensor, quality: Tensor) -> Scores:
    """Combine class scores (..., R_l, K) and qualities (..., R_l, 1); see SCORE_TYPES."""
    product = class_score * quality
    if score_type == "product":
        return Scores(product, product, product)
    if score_type == "class_first":
        return Scores(class_score, class_score, product)
    root = product.sqrt()
    return Scores(root if score_type == "sqrt_all" else class_score, root, root)


def check_score_type(score_type: str, method: str) -> str:
    """Return `score_type` if it is one of SCORE_TYPES.

    Args:
        method: group of the key in cfg.MODEL, for the message.

    Raises:
        ConfigError: it is not.
    """
    if score_type not in SCORE_TYPES:
        raise ConfigError(
            f"MODEL.{method}.SCORE_TYPE must be one of {SCORE_TYPES}; got {score_type!r}."
        )
    return score_type
