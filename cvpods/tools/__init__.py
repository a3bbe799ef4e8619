"""Commands, and Predictor, their counterpart in Python."""

from typing import TYPE_CHECKING

from cvpods.lazy import lazy_names

if TYPE_CHECKING:
    from cvpods.tools.predictor import Predictor

__all__ = lazy_names(__name__, {"predictor": ["Predictor"]})
