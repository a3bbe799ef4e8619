"""Alignment figure of one or two experiments: a row for each object, columns for each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from loguru import logger

from cvpods.configs import BaseConfig
from cvpods.data import build_dataset
from cvpods.data.detection_utils import read_image
from cvpods.evaluation.evaluator import inference_mode
from cvpods.structures import BoxMode
from cvpods.tools.predictor import Predictor
from cvpods.utils.errors import CheckpointError, ConfigError, DataError
from cvpods_ext.analysis.alignment import alignment_maps, check_model, training_weight
from cvpods_ext.analysis.drawing import Block, Objects, draw_alignment


@dataclass(frozen=True)
class Shown:
    """An experiment whose maps a figure shows.

    Args:
        folder: the experiment's folder.
        weights: path or address of its weights; None for the newest checkpoint.
        flag: the flag that names the weights, for errors.
        opts: config overrides, [KEY, VALUE, ...].
    """

    folder: Path
    weights: str | None
    flag: str
    opts: Sequence[str] = ()


@dataclass(frozen=True)
class Choice:
    """Choice of the objects in a figure.

    Args:
        truth: annotated objects instead of detected ones.
        count: largest number of objects.
        score: least score of a detected object.
    """

    truth: bool
    count: int
    score: float


def write_alignment(
    image_file: str,
    experiments: Sequence[Shown],
    choice: Choice,
    config: BaseConfig,
    *,
    output: str | None = None,
    device: str | None = None,
) -> Path:
    """Write the figure and return its path.

    Args:
        image_file: path of the image.
        experiments: one or two. The first one detects the objects. A single one shows the weights
            of both AutoAssign and FeatureAlign; each of two shows those that it trains with.
        config: the first experiment's config. It names OUTPUT_DIR and the data set with the
            annotated objects.
        output: path of the picture, or of a folder for it; None for OUTPUT_DIR.
        device: see Predictor.from_experiment.

    Raises:
        ConfigError: an experiment is not AutoAssign or FeatureAlign, or its classes differ.
        CheckpointError: weights are missing or do not fit.
        DataError: the image has no objects to show, or a file cannot be read or written.
    """
    path = _output_path(output, config)
    predictors = [_load_predictor(experiments[0], device)]
    predictor = predictors[0]
    image = read_image(image_file, "RGB", **predictor.reading)
    if choice.truth:
        objects = _annotated_objects(image_file, choice.count, config, predictor.class_names)
    else:
        objects = _detected_objects(image_file, choice, predictor, image)
    for other in experiments[1:]:
        predictors.append(_load_predictor(other, device))
        _check_classes(str(other.folder), predictors[-1].class_names, predictor.class_names)
    both = len(experiments) == 1
    blocks = [
        _compute_block(shown.folder, one, image, objects, both)
        for shown, one in zip(experiments, predictors, strict=True)
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_alignment(image, objects, blocks).savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise DataError(f"The picture cannot be written to {path}: {error}") from error
    logger.info(f"{len(objects.boxes)} objects of {image_file}. Wrote {path}")
    return path


def _output_path(output: str | None, config: BaseConfig) -> Path:
    """Return the path of the picture: alignment.png in a folder; .png if it has no suffix."""
    path = Path(output or config.OUTPUT_DIR)
    if output is None or path.is_dir():
        return path / "alignment.png"
    return path if path.suffix else path.with_suffix(".png")


def _load_predictor(shown: Shown, device: str | None) -> Predictor:
    """Load an experiment without test-time augmentation.

    Raises:
        CheckpointError: no weights are named, and the experiment has no checkpoint.
    """
    opts = [*shown.opts, "TEST.AUG.ENABLED", "False"]
    try:
        predictor = Predictor.from_experiment(shown.folder, shown.weights, device=device, opts=opts)
    except CheckpointError as error:
        if shown.weights is not None:
            raise
        raise CheckpointError(f"{error} Or name the weights: {shown.flag} x.pth") from error
    check_model(predictor.model)
    return predictor


def _check_classes(source: str, names: Sequence[str], expected: Sequence[str]) -> None:
    if list(names) != list(expected):
        raise ConfigError(
            f"{source} has other classes than the model: {list(names)} instead of {list(expected)}."
        )


def _detected_objects(
    image_file: str, choice: Choice, predictor: Predictor, image: np.ndarray
) -> Objects:
    """Return the best detections, each labelled with its class and score."""
    detections = predictor(image)
    detections = detections[detections.scores >= choice.score][: choice.count]
    if not len(detections):
        raise DataError(
            f"No object of score >= {choice.score} in {image_file}: lower --score, or show the "
            "annotated objects with --truth."
        )
    names = [predictor.class_names[c] for c in detections.pred_classes]
    labels = [f"{n} {s:.2f}" for n, s in zip(names, detections.scores.tolist(), strict=True)]
    return Objects(detections.pred_boxes.tensor, detections.pred_classes, labels)


def _annotated_objects(
    image_file: str, count: int, config: BaseConfig, class_names: Sequence[str]
) -> Objects:
    """Return the first annotated objects of the image in the experiment's test data set.

    Crowds are left out, because no detector trains on them.
    """
    name = config.DATASETS.TEST[0]
    dataset = build_dataset(config, config.DATASETS.TEST[:1], is_train=False)
    names = dataset.meta.thing_classes
    _check_classes(f"--truth: {name!r}", names, class_names)
    path = Path(image_file).resolve()
    records = dataset.datasets[0].dataset_dicts
    record = next((r for r in records if Path(r["file_name"]).resolve() == path), None)
    if record is None:
        raise DataError(f"--truth: {image_file} is not an image of {name!r}.")
    truth = [a for a in record["annotations"] if not a.get("iscrowd", 0)][:count]
    if not truth:
        raise DataError(f"--truth: {image_file} has no annotated object.")
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in truth]
    classes = [a["category_id"] for a in truth]
    return Objects(torch.tensor(boxes), torch.tensor(classes), [names[c] for c in classes])


def _compute_block(
    folder: Path, predictor: Predictor, image: np.ndarray, objects: Objects, both: bool
) -> Block:
    """Compute one model's maps; with `both`, show the weights with and without the filter."""
    model = check_model(predictor.model)
    inputs = predictor.prepare(torch.from_numpy(image).permute(2, 0, 1))
    scale = [n / o for n, o in zip(inputs["image"].shape[:0:-1], image.shape[1::-1], strict=True)]
    boxes = objects.boxes * torch.tensor(scale * 2)
    with inference_mode(model), predictor.autocast():
        images = model.preprocess_image([inputs])
        maps = alignment_maps(
            model, images, boxes.to(images.device), objects.classes.to(images.device)
        )
    weights = ["auto_assign", "feature_align"] if both else [training_weight(model)]
    return Block(folder.resolve().name, ["classification", "regression", *weights], maps)
