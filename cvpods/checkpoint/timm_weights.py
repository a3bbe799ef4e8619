"""Weights of a timm backbone, timm://NAME (optional: pip install cvpods-ext[timm])."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cvpods.checkpoint.addresses import find_in_weights_folder
from cvpods.checkpoint.catalog import find_published
from cvpods.utils.errors import CheckpointError
from cvpods.utils.timm import import_timm


def load_timm(address: str, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the weights of timm://NAME under timm's names, without the classifier.

    The file is $CVPODS_WEIGHTS/timm/NAME.safetensors (or .pth) if it exists. Otherwise timm
    downloads it, and reads it without running code from it.

    Args:
        read: reads a local file, with its weights as "model".

    Returns:
        {"model": weights, "expects": the config keys that they expect}.

    Raises:
        CheckpointError: the network does not exist, or its weights cannot be loaded.
    """
    expects = find_published(address).expects
    timm, name = import_timm(), address.removeprefix("timm://")
    local = find_in_weights_folder([f"timm/{name}.safetensors", f"timm/{name}.pth"])
    overlay = {"state_dict": read(local)["model"]} if local else None
    try:
        if local:  # timm accepts incomplete weights for the stages, but not for the full network
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        model = timm.create_model(
            name, pretrained=True, features_only=True, pretrained_cfg_overlay=overlay
        )
    except Exception as error:  # the file, the hub and the network raise many kinds
        folder = Path("$CVPODS_WEIGHTS") / "timm" / f"{name}.safetensors"
        raise CheckpointError(
            f"MODEL.WEIGHTS {address}: timm cannot load it ({str(error).strip().splitlines()[0]}). "
            f"Put the file at {folder}, or take torchvision:// weights."
        ) from error
    return {"model": dict(model.state_dict()), "expects": dict(expects)}
