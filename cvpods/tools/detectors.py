"""From what MODEL.WEIGHTS names to a detector for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from cvpods.checkpoint import Checkpointer
from cvpods.checkpoint.origin import Origin, set_origin
from cvpods.engine.model import prepare_model

# Files that hold a detector's computation, not only its weights, by their ending: {".onnx":
# function of (cfg, build_model, path)}, which may change cfg. The extension opens graphs here.
GRAPH_FILES: dict[str, Callable[..., tuple[nn.Module, list[str]]]] = {}


def is_graph(weights: str | Path) -> bool:
    """Whether a path names a file of GRAPH_FILES."""
    return Path(weights).suffix.lower() in GRAPH_FILES


def load_detector(
    cfg: Any, build_model: Callable[[Any], nn.Module], weights: str | Path
) -> tuple[nn.Module, list[str]]:
    """Return the experiment's detector with weights (averaged ones where the file has them), or a
    graph. origin_of(model) says where they come from.

    Call it before data loaders are made: a graph may want images of one size.

    Returns:
        The model, and its class names as the file has them; [] where it has none.

    Raises:
        PodsError: the file cannot be used, or does not fit the config.
    """
    if is_graph(weights):
        model, names = GRAPH_FILES[Path(weights).suffix.lower()](cfg, build_model, weights)
        origin = Origin.of_file(weights, class_names=names)
    else:
        model = prepare_model(cfg, build_model)
        content = Checkpointer(model).load(weights, strict=True, use_ema=True, config=cfg)
        origin = Origin.of_file(weights, content, content.get("thing_classes") or ())
    set_origin(model, origin)
    return model, list(origin.class_names)
