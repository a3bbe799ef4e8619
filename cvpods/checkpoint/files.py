"""Where weights come from: paths and addresses, read without running code from them."""

from __future__ import annotations

import os
import urllib.error
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision

from cvpods.checkpoint.caffe2 import load_caffe2_pickle
from cvpods.checkpoint.torchvision_names import from_torchvision_names
from cvpods.utils.errors import CheckpointError

DETECTRON2_ROOT = "https://dl.fbaipublicfiles.com/detectron2/"


def cache_dir() -> Path:
    """Folder of downloaded weights: $CVPODS_CACHE, else torch's hub folder."""
    named = os.environ.get("CVPODS_CACHE")
    return Path(named).expanduser() if named else Path(torch.hub.get_dir()) / "cvpods"


def find_file(path: str | Path) -> Path:
    """The local file of a path or address; downloads addresses once.

    Known addresses: http(s)://..., detectron2://... (detectron2's public weights), and
    torchvision://resnet50 (the first ImageNet weights of a torchvision model).

    Raises:
        CheckpointError: no such file, unknown kind of address, or the download failed.
    """
    text = str(path)
    if "://" in text:
        scheme, _, rest = text.partition("://")
        if scheme == "detectron2":
            text = DETECTRON2_ROOT + rest
        elif scheme == "torchvision":
            text = _torchvision_url(rest)
        elif scheme not in ("http", "https"):
            raise CheckpointError(
                f"MODEL.WEIGHTS {path}: unknown kind of address {scheme}://. Use a path, "
                "http(s)://, detectron2:// or torchvision://."
            )
        return _download(text, str(path))
    local = Path(text).expanduser()
    if not local.is_file():
        raise CheckpointError(f"Weights file {local} does not exist.")
    return local


def _torchvision_url(name: str) -> str:
    try:
        return torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    except (ValueError, AttributeError) as error:
        known = [m for m in torchvision.models.list_models(torchvision.models) if "res" in m]
        raise CheckpointError(
            f"MODEL.WEIGHTS torchvision://{name}: torchvision has no ImageNet weights of that "
            f"name; it has {', '.join(known)} and others."
        ) from error


def _download(url: str, asked: str) -> Path:
    address = urlparse(url)
    target = cache_dir() / address.netloc / address.path.lstrip("/")
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), progress=False)  # writes, then renames
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise CheckpointError(
            f"MODEL.WEIGHTS {asked} cannot be downloaded from {url} ({error}). Download it "
            f"elsewhere and put it at {target}, name a local file (MODEL.WEIGHTS path), or start "
            'from random weights (MODEL.WEIGHTS "").'
        ) from error
    return target


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint: .pkl of arrays, else torch.load with weights_only.

    Returns:
        The file's dict; one that is a bare state dict, or holds it as "state_dict", becomes
        {"model": state dict}. Names of a torchvision ResNet become ours.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    local = find_file(path)
    if local.suffix == ".pkl":
        return {"model": load_caffe2_pickle(local)}
    try:
        content = torch.load(local, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise anything: KeyError, IndexError, struct.error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        size = local.stat().st_size
        raise CheckpointError(
            f"Weights file {local} ({size:,} bytes) cannot be read: it is truncated, damaged, or "
            f"holds more than tensors. {reason}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{local} holds a {type(content).__name__}, not named tensors.")
    if "model" not in content:
        content = {"model": content.get("state_dict", content)}
    if not isinstance(content["model"], dict):
        kind = type(content["model"]).__name__
        raise CheckpointError(f"{local} holds a {kind} as 'model', not named tensors.")
    content["model"] = from_torchvision_names(content["model"])
    return content
