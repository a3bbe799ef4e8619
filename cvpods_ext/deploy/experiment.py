"""Export of an experiment's detector."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from cvpods.configs import BaseConfig
from cvpods.layers import DeformConv
from cvpods.modeling.meta_arch import DenseDetector
from cvpods.tools.detectors import is_graph, load_detector
from cvpods.tools.experiment import BuildModel
from cvpods.tools.predictor import class_names
from cvpods.tools.weights import chosen_weights
from cvpods.utils.errors import CheckpointError, ConfigError
from cvpods_ext.deploy.export import write_graph
from cvpods_ext.deploy.graphs import DetectorGraph, NetworkGraph, anchors_of
from cvpods_ext.deploy.info import GraphInfo, expected_of
from cvpods_ext.deploy.options import ExportOptions
from cvpods_ext.deploy.precision import fold_batch_norms, to_half
from cvpods_ext.deploy.verify import verify


def export_experiment(
    config: BaseConfig,
    build_model: BuildModel,
    options: ExportOptions,
    weights: str | None = None,
    opts: Sequence[Any] = (),
) -> Path:
    """Export the detector of an experiment, and return the path of the written file.

    Args:
        config, build_model: the experiment's, on the CPU.
        weights: path or address of the weights; None for MODEL.WEIGHTS of `opts`, or the newest
            checkpoint of the experiment.
        opts: the overrides in the config, [KEY, VALUE, KEY, VALUE, ...].

    Raises:
        ConfigError: the options do not fit the model, or a package is missing.
        CheckpointError: the weights cannot be used, or the file cannot be written.
    """
    if weights and "MODEL.WEIGHTS" in opts[::2]:
        raise ConfigError("--weights and MODEL.WEIGHTS are both given: leave one of them out.")
    source = weights or chosen_weights(config, opts)
    model, names = load_dense_detector(config, build_model, source)
    for module in model.modules():
        if isinstance(module, DeformConv):
            module.by_operator = options.deform_conv == "operator"
    reference = copy.deepcopy(model) if options.verify else None
    fold_batch_norms(model)
    if options.half:
        to_half(model)
    graph = (DetectorGraph if options.with_postprocess else NetworkGraph)(model)
    info = GraphInfo(
        kind=graph.kind,
        detector=type(model).__name__,
        inputs=list(graph.input_names),
        outputs=list(graph.output_names),
        divisor=model.network.size_divisibility,
        num_classes=model.num_classes,
        levels=list(model.in_features),
        anchors=anchors_of(model),
        half=options.half,
        class_names=names,
        weights=Path(str(source)).name,
        expects=expected_of(config, graph.kind),
    )
    write_graph(graph, info, options)
    mebibytes = options.output.stat().st_size / 2**20
    logger.info(f"Wrote {options.output} ({mebibytes:.1f} MiB), the {info.kind} of {info.detector}")
    if reference is not None:
        verify(options.output, reference)
    return options.output


def load_dense_detector(
    config: BaseConfig, build_model: BuildModel, weights: str | Path
) -> tuple[DenseDetector, list[str]]:
    """Load a detector in evaluation mode, and its class names.

    The names are those in the weights, otherwise those of the test data set, otherwise [].

    Raises:
        ConfigError: the model is not a DenseDetector.
        CheckpointError: `weights` is a graph, or cannot be used.
    """
    if is_graph(weights):
        raise CheckpointError(
            f"--weights {weights} is a graph already; name the weights that it was exported from."
        )
    config.TRAINER.COMPILE = config.TRAINER.CHANNELS_LAST = False
    model, names = load_detector(config, build_model, weights)
    if not isinstance(model, DenseDetector):
        raise ConfigError(
            "pods_export needs a detector derived from DenseDetector; this experiment's is "
            f"{type(model).__name__}."
        )
    fits = len(names) == model.num_classes
    return model.eval(), names if fits else class_names(config, model.num_classes)
