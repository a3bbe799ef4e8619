"""Least scores that pods_demo draws."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from loguru import logger

from cvpods.checkpoint.origin import UNKNOWN, Origin
from cvpods.configs import BaseConfig
from cvpods.data import build_dataset
from cvpods.data.datasets import BaseDataset
from cvpods.engine.class_names import class_names_of, class_order
from cvpods.evaluation.score_thresholds import ScoreThreshold, best_score_thresholds
from cvpods.tools.demo import DEFAULT_SCORE, PER_CLASS, parse_score
from cvpods.tools.results import choose_results
from cvpods.utils.errors import DataError
from cvpods.utils.files import read_text


def score_thresholds(
    args: argparse.Namespace, config: BaseConfig, origin: Origin = UNKNOWN
) -> dict[str, float] | float:
    """Return the least score that is drawn: one for all, or one per class name of the model.

    Args:
        origin: of the weights; their own results are preferred to others'.

    Raises:
        ClassMismatch: the weights' classes have other names than the data set's.
        ConfigError: --score is neither a number nor "per-class".
        DataError: the results that per-class thresholds come from are missing or unusable.
    """
    if args.score != PER_CLASS:
        return parse_score(args.score)
    results = _results_file(args, config, origin.sha256)
    dataset = build_dataset(config, config.DATASETS.TEST[:1], is_train=False).datasets[0]
    best = _best_scores(results, dataset)
    for name, found in best.items():
        logger.info(
            f"{name}: score >= {found.score:.3f} (about F {found.f_measure:.2f}, precision "
            f"{found.precision:.2f}, recall {found.recall:.2f})"
        )
    others = len(dataset.meta["thing_classes"]) - len(best)
    if others:
        logger.info(f"{others} classes without a detection that finds an object: {DEFAULT_SCORE}")
    names = class_names_of(dataset.meta)
    by_position = config.TEST.CLASSES_BY_POSITION
    class_order(origin.class_names, names, dataset.name, by_position)  # refuses other names
    if by_position and len(origin.class_names) == len(names):
        of_model = dict(zip(names, origin.class_names, strict=True))
        return {of_model[name]: found.score for name, found in best.items()}
    return {name: found.score for name, found in best.items()}


def _results_file(args: argparse.Namespace, config: BaseConfig, sha256: str) -> Path:
    """Return --results, or the results of pods_test on the first test data set.

    Raises:
        DataError: see choose_results().
    """
    first = next(iter(config.DATASETS.TEST), "")
    try:
        chosen = choose_results(config, first, args.results, sha256)
    except DataError as error:
        raise DataError(
            f"--score {PER_CLASS} needs results on the test data set. {error}"
        ) from None
    made_of = chosen.provenance.get("weights", {}).get("sha256", "")
    if sha256 and made_of and made_of != sha256:
        logger.warning(f"The scores per class come from results of other weights: {chosen}.")
    return chosen.path


def _best_scores(path: Path, dataset: BaseDataset) -> dict[str, ScoreThreshold]:
    """Return the best threshold of each class that has one.

    Raises:
        DataError: the file holds no usable results, or the data set has no annotations.
    """
    ground_truth = dataset.coco_ground_truth()
    if ground_truth is None:
        raise DataError(f"{dataset.name!r} has no annotations to compute thresholds from.")
    try:
        results = json.loads(read_text(path))
        best = best_score_thresholds(ground_truth, results) if isinstance(results, list) else {}
    except (ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
        raise DataError(f"{path} holds no results for {dataset.name!r}: {error!r}.") from error
    if not best:
        raise DataError(f"{path} holds no detection that finds an object of {dataset.name!r}.")
    return best
