"""Choice of weights: MODEL.WEIGHTS as typed, or the newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cvpods.checkpoint import newest_checkpoint
from cvpods.configs import BaseConfig


def typed_weights(config: BaseConfig, opts: Sequence[Any]) -> str | None:
    """Return MODEL.WEIGHTS of the overrides `opts`; None if it is left out or empty."""
    return (config.MODEL.WEIGHTS or None) if "MODEL.WEIGHTS" in opts[::2] else None


def chosen_weights(config: BaseConfig, opts: Sequence[Any]) -> str | Path:
    """Return typed_weights(), or the newest checkpoint of OUTPUT_DIR if that is None.

    Raises:
        CheckpointError: OUTPUT_DIR has no checkpoint.
    """
    return typed_weights(config, opts) or newest_checkpoint(config.OUTPUT_DIR)
