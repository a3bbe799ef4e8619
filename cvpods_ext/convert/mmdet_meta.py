"""Metadata in mmdetection's checkpoints: its config as text, and the names of classes."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any


def class_names(meta: Any) -> list[str]:
    """Return the class names in a checkpoint's "meta"; [] if it has none."""
    if not isinstance(meta, Mapping):
        return []
    dataset = meta.get("dataset_meta")
    holders = [meta, dataset if isinstance(dataset, Mapping) else {}]
    for holder in holders:
        for key in ("CLASSES", "classes"):
            names = holder.get(key)
            if isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names):
                return list(names)
    return []


def expects(meta: Any) -> dict[str, Any]:
    """Return the config keys and values that the config in a checkpoint's "meta" states.

    They concern the input, the ResNet, the pyramid and the variants of FCOS.
    """
    text = meta.get("cfg", meta.get("config")) if isinstance(meta, Mapping) else None
    text = text if isinstance(text, str) else ""
    model = _assigned(text, "model")
    values: dict[str, Any] = {}
    # Version 2 has img_norm_cfg with to_rgb instead.
    processor = model.get("data_preprocessor") or _assigned(text, "img_norm_cfg")
    if isinstance(processor, dict) and all(_is_color(processor.get(k)) for k in ("mean", "std")):
        rgb = processor.get("bgr_to_rgb", processor.get("to_rgb"))
        values["INPUT.FORMAT"] = "RGB" if rgb else "BGR"
        values["MODEL.PIXEL_MEAN"] = processor["mean"]
        values["MODEL.PIXEL_STD"] = processor["std"]
    backbone, neck, head = (model.get(part) for part in ("backbone", "neck", "bbox_head"))
    if isinstance(neck, dict) and neck.get("type") == "FPN":
        values["MODEL.FPN.RELU_BEFORE_P7"] = bool(neck.get("relu_before_extra_convs", False))
    if isinstance(backbone, dict) and backbone.get("style") in ("pytorch", "caffe"):
        values["MODEL.RESNETS.STRIDE_IN_1X1"] = backbone["style"] == "caffe"
    if isinstance(head, dict) and head.get("type") == "FCOSHead":
        values["MODEL.FCOS.NORM_REG_TARGETS"] = bool(head.get("norm_on_bbox", False))
        values["MODEL.FCOS.CENTERNESS_ON_REG"] = bool(head.get("centerness_on_reg", False))
    return values


def _is_color(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(number, (int, float)) for number in value)
    )


def _assigned(text: str, name: str) -> dict[str, Any]:
    """Return the dict that a config's text assigns to a name; {} if it assigns none.

    Only dict(...), lists and constants are read; nothing is executed.
    """
    try:
        statements = ast.parse(text).body
        for statement in statements:
            if isinstance(statement, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == name for target in statement.targets
            ):
                value = _value(statement.value)
                return value if isinstance(value, dict) else {}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return {}


def _value(node: ast.expr) -> Any:
    """Return the value of a node; None if the node is not plain data."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(element) for element in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
