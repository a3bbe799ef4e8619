"""Evaluate a model on each test data set of a config."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from cvpods.engine.defaults import check_num_classes
from cvpods.engine.model import autocast
from cvpods.evaluation import inference_on_dataset, print_csv_format
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError
from cvpods.utils.stop import failing_together


def inference_folder(cfg: Any) -> Path:
    """Where results go: those of test-time augmentation beside the plain ones."""
    return Path(cfg.OUTPUT_DIR) / ("inference_TTA" if cfg.TEST.AUG.ENABLED else "inference")


def dataset_folder(cfg: Any, folder: Path, name: str) -> Path:
    """Where results on one test data set go: `folder`; one of its own in it beside others."""
    return folder if len(cfg.DATASETS.TEST) == 1 else folder / name


def evaluate_data_sets(
    cfg: Any,
    model: nn.Module,
    folder: Path,
    build_loader: Callable[[Any, str], Any],
    build_evaluator: Callable[..., Any],
) -> Any:
    """Evaluate `model` on each data set of cfg.DATASETS.TEST.

    Args:
        folder: results go there, see dataset_folder.
        build_loader: (cfg, name) -> loader.
        build_evaluator: (cfg, name, dataset, folder) -> evaluator.

    Returns:
        On rank 0 {task: {metric: value}} for one data set, {name: {task: ...}} for several; {}
        elsewhere.
    """
    names = cfg.DATASETS.TEST
    if not names:
        raise ConfigError("DATASETS.TEST names no data set to evaluate on.")
    prepared = []  # all of them, before hours go into the first
    with failing_together():
        for name in names:
            loader = build_loader(cfg, name)
            check_num_classes(model, loader.dataset.meta, name)
            own = dataset_folder(cfg, folder, name)
            prepared.append((name, loader, build_evaluator(cfg, name, loader.dataset, own)))
    results: dict[str, Any] = {}
    device = next(chain(model.parameters(), model.buffers())).device.type
    for name, loader, evaluator in prepared:
        results[name] = inference_on_dataset(model, loader, evaluator, autocast(cfg, device))
        if comm.is_main_process():
            print_csv_format(name, results[name])
    if not comm.is_main_process():
        return {}
    return results[names[0]] if len(names) == 1 else results
