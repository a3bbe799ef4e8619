"""The optional timm package."""

from __future__ import annotations

import importlib
from typing import Any

from cvpods.utils.errors import ConfigError


def import_timm() -> Any:
    """Import and return the timm package, which takes seconds.

    Raises:
        ConfigError: timm is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            "timm's networks need the timm package: pip install 'cvpods-ext[timm]'."
        ) from error
