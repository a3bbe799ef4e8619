"""timm://NAME: weights of a backbone of timm (optional: pip install cvpods-ext[timm])."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cvpods.checkpoint.addresses import in_weights_folder
from cvpods.checkpoint.catalog import published
from cvpods.utils.errors import CheckpointError
from cvpods.utils.timm import import_timm


def load_timm(address: str, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Weights of timm://NAME under timm's names, without its classifier, and what they expect.

    The file is $CVPODS_WEIGHTS/timm/NAME.safetensors (or .pth) where that is, else timm downloads
    it, and reads it without running code from it.

    Args:
        read: reads a local file, its weights as "model".

    Raises:
        CheckpointError: no such network, or its weights cannot be had.
    """
    expects = published(address).expects
    timm, name = import_timm(), address.removeprefix("timm://")
    local = in_weights_folder([f"timm/{name}.safetensors", f"timm/{name}.pth"])
    overlay = {"state_dict": read(local)["model"]} if local else None
    try:
        if local:  # of a network's stages alone, timm takes what there is; of the whole, all
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        model = timm.create_model(
            name, pretrained=True, features_only=True, pretrained_cfg_overlay=overlay
        )
    except Exception as error:  # of the file, of the hub, of the network
        folder = Path("$CVPODS_WEIGHTS") / "timm" / f"{name}.safetensors"
        raise CheckpointError(
            f"MODEL.WEIGHTS {address}: timm cannot load it ({str(error).strip().splitlines()[0]}). "
            f"Put the file at {folder}, or take torchvision:// weights."
        ) from error
    return {"model": dict(model.state_dict()), "expects": dict(expects)}
