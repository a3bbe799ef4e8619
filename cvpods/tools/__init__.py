"""The commands, and Predictor, their counterpart in Python."""

from cvpods.tools.predictor import Predictor

__all__ = ["Predictor"]
