"""Evaluation of a model on each test data set of a config."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from loguru import logger
from torch import nn
from torch.utils.data import DataLoader

from cvpods.checkpoint.origin import Origin, origin_of
from cvpods.data.samplers import SizeBatchSampler
from cvpods.engine.class_names import map_classes
from cvpods.engine.defaults import check_num_classes
from cvpods.engine.model import autocast
from cvpods.evaluation import (
    DatasetEvaluator,
    NMSRecallEvaluator,
    inference_on_dataset,
    print_csv_format,
)
from cvpods.evaluation.provenance import (
    RESULTS,
    describe_weights,
    provenance,
    read_provenance,
    write_results,
)
from cvpods.modeling.pre_and_post_nms import PreAndPostNMS
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError
from cvpods.utils.stop import failing_together

if TYPE_CHECKING:
    from cvpods.configs import BaseConfig


def inference_folder(cfg: BaseConfig) -> Path:
    """Return the folder for results of the experiment's own newest weights.

    Results with test-time augmentation have a folder of their own beside the plain ones.
    """
    return Path(cfg.OUTPUT_DIR) / ("inference_TTA" if cfg.TEST.AUG.ENABLED else "inference")


def results_folder(cfg: BaseConfig, origin: Origin, newest: Path | None) -> Path:
    """Return the folder for results of given weights: the rule of pods_test.

    1. The experiment's own newest checkpoint: OUTPUT_DIR/inference, or inference_TTA with TEST.AUG.
    2. Any other weights and any graph: of_<stem>_<first 8 digits of the file's sha256> in it.
    3. With several data sets, each has a folder of its own name in that: dataset_folder().

    Args:
        newest: the experiment's own newest checkpoint, None without one.
    """
    folder = inference_folder(cfg)
    if newest is not None and origin.file is not None and newest.resolve() == origin.file.resolve():
        return folder
    stem = origin.file.stem if origin.file is not None else re.sub(r"\W+", "_", origin.weights)
    return folder / "_".join(filter(None, ("of", stem, origin.sha256)))


def dataset_folder(cfg: BaseConfig, folder: Path, name: str) -> Path:
    """Return the folder for results on a test data set: `folder`, or one in it if several."""
    return folder if len(cfg.DATASETS.TEST) == 1 else folder / name


def evaluate_data_sets(
    cfg: BaseConfig,
    model: nn.Module,
    folder: Path,
    build_loader: Callable[[BaseConfig, str], DataLoader],
    build_evaluator: Callable[..., DatasetEvaluator],
    record: bool = True,
) -> dict[str, Any]:
    """Evaluate `model` on each data set of cfg.DATASETS.TEST.

    Classes are mapped to those of the data set by name, see cvpods.engine.class_names.

    Args:
        folder: of the results, see dataset_folder().
        build_loader: (cfg, name) -> loader.
        build_evaluator: (cfg, name, dataset, folder) -> evaluator.
        record: write results.json.

    Returns:
        On rank 0 {task: {metric: value}} for one data set, {name: {task: ...}} for several; {}
        elsewhere.

    Raises:
        ConfigError: DATASETS.TEST is empty, or the classes of the model do not fit.
    """
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST must name a data set to evaluate on; it is empty.")
    # All are prepared first, so that no error in this comes after hours of evaluation.
    prepared: list[_Evaluation] = []
    with failing_together():
        for name in cfg.DATASETS.TEST:
            loader = build_loader(cfg, name)
            fitted = _fit_to_data_set(cfg, model, loader, name)
            own = dataset_folder(cfg, folder, name)
            evaluator = build_evaluator(cfg, name, loader.dataset, own)
            prepared.append(_Evaluation(name, fitted, loader, evaluator))
    entry = provenance(origin_of(model), {each.name: each.loader.dataset for each in prepared})
    if record:
        _log_replacement(folder)
    device = next(chain(model.parameters(), model.buffers())).device.type
    results = {each.name: each.run(autocast(cfg, device), entry) for each in prepared}
    if not comm.is_main_process():
        return {}
    names = cfg.DATASETS.TEST
    reported = results[names[0]] if len(names) == 1 else results
    if record:
        write_results(folder, reported, entry)
    return reported


def evaluate_nms_recall(
    cfg: BaseConfig,
    model: nn.Module,
    folder: Path,
    build_loader: Callable[[BaseConfig, str], DataLoader],
) -> dict[str, Any]:
    """Compute the NMS recall on each data set; arguments as in evaluate_data_sets().

    Raises:
        ConfigError: TEST.AUG is on, or the model is not a DenseDetector.
    """
    if cfg.TEST.AUG.ENABLED:
        raise ConfigError("NMS recall is measured at one scale; set TEST.AUG.ENABLED False.")

    def build_evaluator(cfg: BaseConfig, name: str, dataset: Any, folder: Path) -> DatasetEvaluator:
        return NMSRecallEvaluator(name, dataset.datasets[0].coco_ground_truth(), folder)

    detector: Any = model  # PreAndPostNMS refuses other models than a DenseDetector
    pair = PreAndPostNMS(detector)
    return evaluate_data_sets(cfg, pair, folder, build_loader, build_evaluator, record=False)


class _Evaluation(NamedTuple):
    """The evaluation of a model on one data set."""

    name: str
    model: nn.Module
    loader: DataLoader
    evaluator: DatasetEvaluator

    def run(self, autocast: torch.autocast, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the results on rank 0, {} elsewhere; reports show the provenance `entry`."""
        self.evaluator.provenance = entry
        results = inference_on_dataset(self.model, self.loader, self.evaluator, autocast)
        if comm.is_main_process():
            print_csv_format(self.name, results)
        return results


def _fit_to_data_set(cfg: BaseConfig, model: nn.Module, loader: DataLoader, name: str) -> nn.Module:
    """Return the model with the classes of the data set; set how its loader groups images.

    Raises:
        ConfigError: the model has another number of classes, or other ones.
    """
    sampler = getattr(loader, "batch_sampler", None)
    if isinstance(sampler, SizeBatchSampler):
        sampler.one_size = getattr(model, "one_size", False)
    dataset: Any = loader.dataset
    check_num_classes(model, dataset.meta, name)
    by_position = cfg.TEST.CLASSES_BY_POSITION
    return map_classes(model, origin_of(model).class_names, dataset.meta, name, by_position)


def _log_replacement(folder: Path) -> None:
    """Log which results in the folder the new ones will replace."""
    before = read_provenance(folder)
    if before:
        logger.info(
            f"{folder / RESULTS} holds results of {describe_weights(before)}, {before['date']}; "
            "they will be replaced."
        )
