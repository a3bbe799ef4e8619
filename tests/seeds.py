"""A test over many seeds, as one test."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest


def each_seed(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test with `seed` from 0 to count - 1; the error names the seed that fails."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            for seed in range(count):
                try:
                    test(*args, seed=seed, **kwargs)
                except (Exception, pytest.fail.Exception) as error:
                    raise AssertionError(f"seed {seed} of {count}: {error}") from error

        signature = inspect.signature(test)
        others = [value for name, value in signature.parameters.items() if name != "seed"]
        run.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return run

    return decorate
