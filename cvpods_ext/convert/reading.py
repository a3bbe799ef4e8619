"""Files of other frameworks are converted as they are read: MODEL.WEIGHTS mmdetection's.pth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loguru import logger
from torch import Tensor

from cvpods_ext.configs.frameworks import ARITHMETIC
from cvpods_ext.convert import mmdet_meta
from cvpods_ext.convert.conversion import Conversion, convert
from cvpods_ext.convert.layouts import recognise

# Groups of MODEL that a file may be of, by the method that its names tell.
_GROUPS = {
    "retinanet": ("RETINANET", "FREE_ANCHOR"),
    "fcos": ("FCOS",),
    "atss": ("ATSS",),
    "auto_assign": ("AUTO_ASSIGN",),
}


def read_foreign(content: dict[str, Any]) -> dict[str, Any]:
    """A file's content with the weights of another framework under our names.

    Adds what they expect of the config ("expects") and the classes ("thing_classes"), where known.
    """
    weights = {k: v for k, v in content["model"].items() if isinstance(v, Tensor)}
    layout = recognise(name.removeprefix("module.") for name in weights)
    if layout is None or layout.name == "cvpods":
        return content
    conversion = convert(weights, layout.name)
    logger.info(f"A file of {layout.title}: {len(conversion.used)} tensors get our names.")
    names = mmdet_meta.class_names(content.get("meta")) if layout.name == "mmdet" else []
    return {
        **content,
        "model": conversion.weights,
        "expects": expectations(conversion, content),
        **({"thing_classes": names} if names else {}),
    }


def expectations(conversion: Conversion, content: Mapping[str, Any]) -> dict[str, Any]:
    """{config key: value} that a framework's weights rely on, and that its file says."""
    methods = ARITHMETIC.get(conversion.layout, {})
    # maskrcnn-benchmark's files of ATSS have FCOS' names.
    method = "atss" if conversion.method == "fcos" and "FCOS" not in methods else conversion.method
    found: dict[str, Any] = {}
    for group in _GROUPS.get(method, ()):
        found |= methods.get(group, {})
    if conversion.layout == "mmdet":
        found |= mmdet_meta.expects(content.get("meta"))
    if conversion.layout == "detectron2":
        found |= _pixels(content["model"])
    return found


def _pixels(weights: Mapping[str, Any]) -> dict[str, Any]:
    """detectron2 keeps mean and standard deviation beside the weights; blue comes first in BGR."""
    mean, std = weights.get("pixel_mean"), weights.get("pixel_std")
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor) or mean.numel() != 3:
        return {}
    values = mean.flatten().tolist()
    return {
        "INPUT.FORMAT": "BGR" if values[0] < values[2] else "RGB",
        "MODEL.PIXEL_MEAN": values,
        "MODEL.PIXEL_STD": std.flatten().tolist(),
    }
