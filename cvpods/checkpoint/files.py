"""Files of weights: .pth, .safetensors and .pkl, read without running code from them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cvpods.checkpoint.addresses import find_file
from cvpods.checkpoint.atomic import write_file
from cvpods.checkpoint.caffe2 import load_caffe2_pickle
from cvpods.checkpoint.catalog import expected_keys
from cvpods.checkpoint.timm_weights import load_timm
from cvpods.checkpoint.torch_files import (
    ARCHIVE,
    LEGACY,
    extract_weights,
    load_torch_file,
    plain_dict,
    unreadable_error,
)
from cvpods.lazy import resolve
from cvpods.utils.errors import CheckpointError

# Functions that convert the content of a file after it is read, as "module:function". Content of
# another format gets this project's names; any other content is returned as it is.
READERS: dict[str, str] = {"other frameworks": "cvpods_ext.convert.reading:read_foreign"}


def load_file(address: str | Path) -> dict[str, Any]:
    """Read the weights at a path or address; see find_file(), and timm://NAME.

    Returns:
        The file's dict with the weights as "model" ({name: tensor}), and "expects": {config key:
        value} that they were trained with, as far as known. Weights of a framework that READERS
        knows get this project's names.

    Raises:
        CheckpointError: the file is missing, damaged, not a file of weights, or holds more than
            plain data.
    """
    text = str(address)
    if text.startswith("timm://"):
        return load_timm(text, read_file)
    content = read_file(find_weights(address))
    for address in READERS.values():
        content = resolve(address)(content)
    expects = plain_dict(content.get("expects"))
    expects |= expected_keys(text)
    if isinstance(content.get("provenance"), dict):
        provenance = plain_dict(content["provenance"])
        expects |= plain_dict(provenance.get("expects"))
        content.setdefault("thing_classes", provenance.get("class_names", []))
    return {**content, "expects": expects}


def read_entries(path: Path) -> dict[str, Any]:
    """Return the entries of a file beside its weights.

    The tensors of an archive are not read, so this is fast for a file of any size.

    Raises:
        CheckpointError: see load_file().
    """
    start, _ = _read_start(path)
    if not start.startswith(ARCHIVE):
        return read_file(path)
    return plain_dict(load_torch_file(path, start, mapped=True))


def find_weights(address: str | Path) -> Path:
    """Return the local file of weights at a path or address; see find_file().

    A download is read before it is kept, so that a broken file does not stay in the cache.
    """
    return find_file(address, check=read_file)


def read_file(path: Path) -> dict[str, Any]:
    """Return the content of a local file without conversions, with the weights as "model".

    Raises:
        CheckpointError: see load_file().
    """
    start, size = _read_start(path)
    if start.startswith((ARCHIVE, LEGACY)):
        return extract_weights(load_torch_file(path, start), path)
    if _is_safetensors(start, size) or path.suffix == ".safetensors":
        return _load_safetensors(path)
    if start.startswith(b"\x80") or path.suffix == ".pkl":
        return {"model": load_caffe2_pickle(path)}
    found = "a web page" if start.lstrip()[:1] == b"<" else f"starts with {start[:8]!r}"
    raise CheckpointError(
        f"Weights file {path} ({size:,} bytes) cannot be read: it is not a .pth, .safetensors or "
        f".pkl file ({found}), or it is truncated or damaged."
    )


def _read_start(path: Path) -> tuple[bytes, int]:
    """Return the first bytes of a file, and its size.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(64), path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"Weights file {path} cannot be read: {error}") from error


# -- safetensors -----------------------------------------------------------------------------------


def _is_safetensors(start: bytes, size: int) -> bool:
    """Return True if a file starts with 8 bytes of header length and a JSON header."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            metadata = file.metadata() or {}
            model = {name: file.get_tensor(name) for name in names}
        provenance = json.loads(metadata.get("provenance", "null"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise unreadable_error(path, str(error)) from error
    content: dict[str, Any] = {"model": model}
    if isinstance(provenance, dict):
        content["provenance"] = provenance
    return content


# -- writing ---------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """Check that weights can be written with the suffix of `path`.

    Raises:
        CheckpointError: the suffix is not .pth, .pt or .safetensors.
    """
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise CheckpointError(f"Write weights to a .pth or .safetensors file, not to {path}.")


def write_weights(
    path: Path,
    weights: dict[str, Tensor],
    provenance: dict[str, Any],
    key: str = "model",
) -> None:
    """Write weights atomically as .pth ({key: weights, "provenance": ...}) or .safetensors.

    Args:
        provenance: origin of the weights; JSON. In .safetensors it is stored in the header.

    Raises:
        CheckpointError: the suffix is another one, or the file cannot be written.
    """
    check_writable(path)
    # Copy each tensor: one that is part of a larger storage would be saved with all of it.
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    if path.suffix == ".safetensors":
        # Write one entry: several would be written in random order, and the hash would change.
        metadata = {"provenance": json.dumps(provenance)}
        content = safetensors.torch.save(weights, metadata)
    else:
        buffer = io.BytesIO()
        torch.save({key: weights, "provenance": provenance}, buffer)
        content = buffer.getvalue()
    write_file(path, content)
