"""Evaluate a model on each test data set of a config."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from loguru import logger
from torch import nn

from cvpods.checkpoint.origin import Origin, origin_of
from cvpods.data.samplers import SizeBatchSampler
from cvpods.engine.class_names import map_classes
from cvpods.engine.defaults import check_num_classes
from cvpods.engine.model import autocast
from cvpods.evaluation import inference_on_dataset, print_csv_format
from cvpods.evaluation.provenance import (
    RESULTS,
    describe_weights,
    provenance,
    read_provenance,
    write_results,
)
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError
from cvpods.utils.stop import failing_together


def inference_folder(cfg: Any) -> Path:
    """Return the folder for results of the experiment's own newest weights.

    Results with test-time augmentation go beside the plain ones.
    """
    return Path(cfg.OUTPUT_DIR) / ("inference_TTA" if cfg.TEST.AUG.ENABLED else "inference")


def results_folder(cfg: Any, origin: Origin, newest: Path | None) -> Path:
    """Return the folder for results of given weights: the rule of pods_test.

    1. The experiment's own newest checkpoint: OUTPUT_DIR/inference, or inference_TTA with TEST.AUG.
    2. Any other weights and any graph: of_<stem>_<first 8 digits of the file's sha256> in it.
    3. With several data sets, each has a folder of its own name in that: dataset_folder().

    Args:
        newest: the experiment's own newest checkpoint, None where it has none.
    """
    folder = inference_folder(cfg)
    if newest is not None and origin.file is not None and newest.resolve() == origin.file.resolve():
        return folder
    stem = origin.file.stem if origin.file is not None else re.sub(r"\W+", "_", origin.weights)
    return folder / "_".join(filter(None, ("of", stem, origin.sha256)))


def dataset_folder(cfg: Any, folder: Path, name: str) -> Path:
    """Return the folder for results on one test data set: `folder`, or one in it of several."""
    return folder if len(cfg.DATASETS.TEST) == 1 else folder / name


def evaluate_data_sets(
    cfg: Any,
    model: nn.Module,
    folder: Path,
    build_loader: Callable[[Any, str], Any],
    build_evaluator: Callable[..., Any],
    record: bool = True,
) -> Any:
    """Evaluate `model` on each data set of cfg.DATASETS.TEST.

    Classes are mapped to those of the data set by name, see cvpods.engine.class_names.

    Args:
        folder: results go there, see dataset_folder.
        build_loader: (cfg, name) -> loader.
        build_evaluator: (cfg, name, dataset, folder) -> evaluator.
        record: write results.json.

    Returns:
        On rank 0 {task: {metric: value}} for one data set, {name: {task: ...}} for several; {}
        elsewhere.
    """
    names = cfg.DATASETS.TEST
    if not names:
        raise ConfigError("DATASETS.TEST names no data set to evaluate on.")
    origin = origin_of(model)
    prepared = []  # all of them, before hours go into the first
    with failing_together():
        for name in names:
            loader = build_loader(cfg, name)
            mapped = _fitted(cfg, model, loader, name, origin)
            own = dataset_folder(cfg, folder, name)
            evaluator = build_evaluator(cfg, name, loader.dataset, own)
            prepared.append((name, mapped, loader, evaluator))
    entry = provenance(origin, {name: loader.dataset for name, _, loader, _ in prepared})
    if record:
        _announce_replacement(folder)
    results: dict[str, Any] = {}
    device = next(chain(model.parameters(), model.buffers())).device.type
    for name, mapped, loader, evaluator in prepared:
        evaluator.provenance = entry
        results[name] = inference_on_dataset(mapped, loader, evaluator, autocast(cfg, device))
        if comm.is_main_process():
            print_csv_format(name, results[name])
    if not comm.is_main_process():
        return {}
    found = results[names[0]] if len(names) == 1 else results
    if record:
        write_results(folder, found, entry)
    return found


def _fitted(cfg: Any, model: nn.Module, loader: Any, name: str, origin: Origin) -> nn.Module:
    """Return the model with the classes of the data set; its loader groups images as it wants.

    Raises:
        ConfigError: the model has another number of classes, or other ones.
    """
    sampler = getattr(loader, "batch_sampler", None)
    if isinstance(sampler, SizeBatchSampler):
        sampler.one_size = getattr(model, "one_size", False)
    meta = loader.dataset.meta
    check_num_classes(model, meta, name)
    return map_classes(model, origin.class_names, meta, name, cfg.TEST.CLASSES_BY_POSITION)


def _announce_replacement(folder: Path) -> None:
    before = read_provenance(folder)
    if before:
        logger.info(
            f"{folder / RESULTS} holds results of {describe_weights(before)}, {before['date']}; "
            "they will be replaced."
        )
