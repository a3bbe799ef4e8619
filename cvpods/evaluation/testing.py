"""Formats of results for other programs, and comparison with expected results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from loguru import logger

from cvpods.utils.errors import ConfigError


def print_csv_format(dataset_name: str, results: Mapping[str, Mapping[str, float]]) -> None:
    """Log the main metrics (not those per class) in lines that scripts can copy."""
    for task, metrics in results.items():
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info(f"Evaluation results for {dataset_name} in csv format:")
        logger.info(f"copypaste: Task: {task}")
        logger.info(f"copypaste: {','.join(main)}")
        logger.info(f"copypaste: {','.join(f'{value:.4f}' for value in main.values())}")


def flatten_results_dict(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten nested results: {"bbox": {"AP": 1}} becomes {"bbox/AP": 1}."""
    flat: dict[str, float] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update(flatten_results_dict(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def without_nan(results: Any) -> Any:
    """Copy nested results with None for NaN and infinity, which json cannot represent."""
    if isinstance(results, Mapping):
        return {key: without_nan(value) for key, value in results.items()}
    return None if isinstance(results, float) and not math.isfinite(results) else results


def verify_results(expected: Sequence[Sequence[Any]], results: Mapping[str, Any]) -> bool:
    """Compare results with TEST.EXPECTED_RESULTS: [[task, metric, value, tolerance], ...].

    Returns:
        True if all results are finite and within their tolerance; errors are logged otherwise.

    Raises:
        ConfigError: an entry does not name a result.
    """
    passed = True
    for entry in expected:
        try:
            task, metric, value, tolerance = entry
            actual = results[task][metric]
            missed = not math.isfinite(actual) or abs(actual - value) > tolerance
        except (ValueError, TypeError, KeyError):
            raise ConfigError(
                "An entry of TEST.EXPECTED_RESULTS must be [task, metric, value, tolerance] with "
                f"one of the results {list(flatten_results_dict(results))}; got {entry!r}."
            ) from None
        if missed:
            logger.error(f"{task}/{metric} is {actual:.3f}, expected {value} +- {tolerance}.")
            passed = False
    return passed
