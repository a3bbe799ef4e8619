"""Files of other frameworks are converted as they are read: MODEL.WEIGHTS mmdetection's.pth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loguru import logger
from torch import Tensor

from cvpods.checkpoint.files import plain_dict
from cvpods.checkpoint.matching import strip_wrappers
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

    Raises:
        CheckpointError: a network of that framework which has no form here.
    """
    weights = tensors(content["model"])
    layout = recognise(weights)
    if layout is None or layout.name == "cvpods":
        return content
    conversion = convert(weights, layout.name)
    logger.info(f"A file of {layout.title}: {len(conversion.used)} tensors get our names.")
    if conversion.unused:
        logger.warning(f"Not used, of no part that is known: {', '.join(conversion.unused)}")
    names = mmdet_meta.class_names(content.get("meta")) if layout.name == "mmdet" else []
    averaged = tensors(content.get("ema"))
    return {
        **content,
        "model": conversion.weights,
        **({"ema": convert(averaged, layout.name).weights} if averaged else {}),
        "expects": expectations(conversion, content),
        **({"thing_classes": names} if names else {}),
    }


def tensors(named: Any) -> dict[str, Tensor]:
    """The tensors of a dict, without the prefixes that wrappers of a model add to all names."""
    found = plain_dict(named).items()
    return strip_wrappers({k: v for k, v in found if isinstance(v, Tensor)})


def expectations(conversion: Conversion, content: Mapping[str, Any]) -> dict[str, Any]:
    """{config key: value} that weights rely on: what their file says, or their framework.

    Of weights that this project wrote, what it wrote with them.
    """
    provenance = content.get("provenance")
    if isinstance(provenance, Mapping) and isinstance(provenance.get("expects"), Mapping):
        return dict(provenance["expects"])
    methods = ARITHMETIC.get(conversion.layout, {})
    # maskrcnn-benchmark's files of ATSS have FCOS' names.
    method = "atss" if conversion.method == "fcos" and "FCOS" not in methods else conversion.method
    groups = [group for group in _GROUPS.get(method, ()) if group in methods]
    found: dict[str, Any] = {"MODEL": groups} if groups else {}
    for group in groups:
        found |= methods[group]
    found.pop("MODEL.FPN.BLOCK_IN_FEATURES", None)  # the shape of P6 says it
    if conversion.layout == "mmdet":
        found |= mmdet_meta.expects(content.get("meta"))
    if conversion.layout == "detectron2":
        found |= _pixels(content["model"])
    return found | plain_dict(content.get("expects"))


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
