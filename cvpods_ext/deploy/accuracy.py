"""Accuracy of a graph on a data set."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from cvpods.configs import BaseConfig
from cvpods.data import register_coco_instances
from cvpods.engine import RUNNERS, default_setup
from cvpods.evaluation import without_nan
from cvpods.evaluation.provenance import ENTRY, read_provenance
from cvpods.tools.detectors import load_detector
from cvpods.tools.experiment import BuildModel
from cvpods.utils.errors import ConfigError, DataError


def evaluate_graph(
    config: BaseConfig,
    build_model: BuildModel,
    path: str | Path,
    *,
    datasets: str | None = None,
    provider: str | None = None,
    resize: str | None = None,
    batch: int | None = None,
    arguments: argparse.Namespace | None = None,
) -> dict[str, Any]:
    """Evaluate a graph on the experiment's test data set, or on COCO's val2017.

    Args:
        config, build_model: the experiment's.
        datasets: folder of COCO; None for $DATASETS_DIR. Without either, the experiment's own
            DATASETS.TEST is used.
        provider, resize: TEST.GRAPH.PROVIDER and TEST.GRAPH.RESIZE; None for the config's values.
        batch: TEST.IMS_PER_DEVICE; None for the graph's own batch or the config's value.
        arguments: the command's arguments, for the log.

    Returns:
        The metrics and their provenance, ready for JSON.

    Raises:
        ConfigError: the graph does not fit the experiment.
        DataError: the data set is missing.
    """
    folder = datasets or os.environ.get("DATASETS_DIR")
    if folder:
        config.DATASETS.TEST = (_register_coco(Path(folder).expanduser()),)
    names = list(config.DATASETS.TEST)
    if len(names) != 1:
        raise ConfigError(f"DATASETS.TEST must name one data set for pods_infer; got {names}.")
    config.TEST.GRAPH.PROVIDER = provider or config.TEST.GRAPH.PROVIDER
    config.TEST.GRAPH.RESIZE = resize or config.TEST.GRAPH.RESIZE
    config = default_setup(config, arguments)
    model, _ = load_detector(config, build_model, path)
    if batch:
        config.TEST.IMS_PER_DEVICE = batch
    runner = RUNNERS.get(config.TRAINER.NAME)
    output = Path(config.OUTPUT_DIR) / f"infer_{Path(path).stem}"
    results = runner.test(config, model, output)
    return {"model": str(path), **without_nan(results), ENTRY: read_provenance(output)}


def _register_coco(folder: Path) -> str:
    """Register the val2017 of a folder of COCO, and return the data set's name.

    Raises:
        DataError: the folder lacks the images or the annotations.
    """
    images, annotations = folder / "images/val2017", folder / "annotations/instances_val2017.json"
    images = images if images.is_dir() else folder / "val2017"
    for path in (images, annotations):
        if not path.exists():
            raise DataError(
                f"{path} does not exist. --datasets or $DATASETS_DIR must name a folder with "
                "images/val2017 and annotations/instances_val2017.json."
            )
    register_coco_instances("infer_val2017", annotations.resolve(), images.resolve())
    return "infer_val2017"
