"""Detectors for evaluation, from the weights or the graph that MODEL.WEIGHTS names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from cvpods.checkpoint import Checkpointer
from cvpods.checkpoint.origin import Origin, set_origin
from cvpods.configs import BaseConfig
from cvpods.engine.model import prepare_model
from cvpods.lazy import resolve

# Files that hold a detector's computation and not only its weights: {ending: "module:function"}.
# The function takes (cfg, build_model, path), may change cfg, and returns what load_detector does.
GRAPH_FILES: dict[str, str] = {
    ".onnx": "cvpods_ext.deploy.detector:load_graph",
    ".pt2": "cvpods_ext.deploy.detector:load_graph",
}


def is_graph(weights: str | Path) -> bool:
    """Return whether a path has one of the endings in GRAPH_FILES."""
    return Path(weights).suffix.lower() in GRAPH_FILES


def load_detector(
    cfg: BaseConfig, build_model: Callable[[BaseConfig], nn.Module], weights: str | Path
) -> tuple[nn.Module, list[str]]:
    """Load the experiment's detector from a file of weights, or from a graph.

    Averaged weights are preferred if the file has them. origin_of(model) tells where the weights
    come from. Call this before data loaders are made: a graph may need images of one size.

    Returns:
        The model, and its class names as the file has them; [] if it has none.

    Raises:
        PodsError: the file cannot be used, or does not fit the config.
    """
    if is_graph(weights):
        load_graph = resolve(GRAPH_FILES[Path(weights).suffix.lower()])
        model, names = load_graph(cfg, build_model, weights)
        origin = Origin.of_file(weights, class_names=names)
    else:
        model = prepare_model(cfg, build_model)
        content = Checkpointer(model).load(weights, strict=True, use_ema=True, config=cfg)
        origin = Origin.of_file(weights, content, content.get("thing_classes") or ())
    set_origin(model, origin)
    return model, list(origin.class_names)
