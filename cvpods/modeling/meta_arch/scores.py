"""How class score and quality (centerness, objectness) make the score of a detection."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from cvpods.utils.errors import ConfigError

# Of (class score, quality), both in [0, 1]; s is the class score, q the quality:
#                 threshold    which are the best    score of a detection
# "sqrt"          s            sqrt(s q)             sqrt(s q)      FCOS' and ATSS' authors
# "sqrt_all"      sqrt(s q)    sqrt(s q)             sqrt(s q)      detectron2, torchvision
# "product"       s q          s q                   s q            AutoAssign's authors
# "class_first"   s            s                     s q            mmdetection
SCORE_TYPES = ("sqrt", "sqrt_all", "product", "class_first")


class Scores(NamedTuple):
    """Of candidates: what is held against the threshold, what ranks them before NMS, and what is
    their score in NMS and after it; (R_l, K) each."""

    threshold: Tensor
    ranking: Tensor
    final: Tensor


def combine_scores(score_type: str, class_score: Tensor, quality: Tensor) -> Scores:
    """Scores (R_l, K) of class scores (R_l, K) and qualities (R_l, 1), by SCORE_TYPES."""
    product = class_score * quality
    if score_type == "product":
        return Scores(product, product, product)
    if score_type == "class_first":
        return Scores(class_score, class_score, product)
    root = product.sqrt()
    return Scores(root if score_type == "sqrt_all" else class_score, root, root)


def check_score_type(score_type: str, method: str) -> str:
    """`score_type`, if it is one.

    Raises:
        ConfigError: it is none; names the method's key.
    """
    if score_type not in SCORE_TYPES:
        raise ConfigError(
            f"MODEL.{method}.SCORE_TYPE must be one of {SCORE_TYPES}, got {score_type!r}."
        )
    return score_type
