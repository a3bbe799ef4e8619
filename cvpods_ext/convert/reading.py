"""Conversion of other frameworks' files while they are read, as in MODEL.WEIGHTS their.pth."""

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

# Groups of MODEL that weights may belong to, by the method that their names reveal.
_GROUPS = {
    "retinanet": ("RETINANET", "FREE_ANCHOR"),
    "fcos": ("FCOS",),
    "atss": ("ATSS",),
    "auto_assign": ("AUTO_ASSIGN",),
}


def read_foreign(content: dict[str, Any]) -> dict[str, Any]:
    """Return a file's content with the weights of another framework under our names.

    The result also states what the weights expect of the config ("expects") and, if the file has
    them, the names of the classes ("thing_classes"). Our own files are returned unchanged.

    Raises:
        CheckpointError: this project does not have the network.
    """
    weights = plain_tensors(content["model"])
    layout = recognise(weights)
    if layout is None or layout.name == "cvpods":
        return content
    conversion = convert(weights, layout.name)
    logger.info(f"Renamed {len(conversion.used)} tensors of a file of {layout.title}.")
    if conversion.unused:
        logger.warning(
            f"These tensors have no place in the network: {', '.join(conversion.unused)}"
        )
    names = mmdet_meta.class_names(content.get("meta")) if layout.name == "mmdet" else []
    averaged = plain_tensors(content.get("ema"))
    return {
        **content,
        "model": conversion.weights,
        **({"ema": convert(averaged, layout.name).weights} if averaged else {}),
        "expects": expectations(conversion, content),
        **({"thing_classes": names} if names else {}),
    }


def plain_tensors(named: Any) -> dict[str, Tensor]:
    """Return the tensors in a dict, without the prefixes that wrappers of a model add."""
    items = plain_dict(named).items()
    return strip_wrappers({k: v for k, v in items if isinstance(v, Tensor)})


def expectations(conversion: Conversion, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return {config key: value} that weights rely on.

    A file that this project wrote states them. The others follow from the framework's arithmetic
    and from what the file itself contains.
    """
    provenance = content.get("provenance")
    if isinstance(provenance, Mapping) and isinstance(provenance.get("expects"), Mapping):
        return dict(provenance["expects"])
    methods = ARITHMETIC.get(conversion.layout, {})
    # ATSS in maskrcnn-benchmark has the names of FCOS.
    method = "atss" if conversion.method == "fcos" and "FCOS" not in methods else conversion.method
    groups = [group for group in _GROUPS.get(method, ()) if group in methods]
    values: dict[str, Any] = {"MODEL": groups} if groups else {}
    for group in groups:
        values |= methods[group]
    values.pop("MODEL.FPN.BLOCK_IN_FEATURES", None)  # The shape of P6 decides it.
    if conversion.layout == "mmdet":
        values |= mmdet_meta.expects(content.get("meta"))
    if conversion.layout == "detectron2":
        values |= _pixel_statistics(content["model"])
    return values | plain_dict(content.get("expects"))


def _pixel_statistics(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean and standard deviation that detectron2 stores with the weights.

    The smaller mean is ImageNet's blue, which tells BGR from RGB.
    """
    mean, std = weights.get("pixel_mean"), weights.get("pixel_std")
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor) or mean.numel() != 3:
        return {}
    values = mean.flatten().tolist()
    return {
        "INPUT.FORMAT": "BGR" if values[0] < values[2] else "RGB",
        "MODEL.PIXEL_MEAN": values,
        "MODEL.PIXEL_STD": std.flatten().tolist(),
    }
