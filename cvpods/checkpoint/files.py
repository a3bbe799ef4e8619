"""Files of weights: .pth, .safetensors and .pkl, read without running code from them."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cvpods.checkpoint.addresses import find_file
from cvpods.checkpoint.atomic import write_file
from cvpods.checkpoint.caffe2 import load_caffe2_pickle
from cvpods.checkpoint.catalog import expects_of
from cvpods.checkpoint.plain_values import CONSTRUCTORS, PlainArray, PlainDtype, as_tensor
from cvpods.checkpoint.timm_weights import load_timm
from cvpods.checkpoint.torch_pickle import check_torch_pickle
from cvpods.utils.errors import CheckpointError
from cvpods.utils.lazy import resolve

# Where files keep the weights among other things.
_WEIGHTS_KEYS = ("model", "state_dict", "model_state_dict", "weights")
# How torch's files begin that are no zip archives (torch < 1.6).
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


# Functions that convert the content of a file once it is read, as "module:function": the content of
# another format gets this project's names, any other content is returned as it is.
READERS: dict[str, str] = {"other frameworks": "cvpods_ext.convert.reading:read_foreign"}


class Inert:
    """Stands for an object of another program's training state; knows and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# What files of weights hold beside tensors, by the names under which they ask for it.
_STANDING_FOR: list[Any] = [
    (Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
    (Inert, "argparse.Namespace"),
    (PlainArray, "numpy.ndarray"),
    (PlainDtype, "numpy.dtype"),
    *((made, name) for name, made in CONSTRUCTORS.items() if name.startswith("numpy.core.")),
    *((made, name) for name, made in CONSTRUCTORS.items() if name.startswith("numpy._core.")),
]


def load_file(address: str | Path) -> dict[str, Any]:
    """Read the weights that a path or address names (see find_file; timm://NAME, too).

    Returns:
        The file's dict with the weights as "model" ({name: tensor}), and "expects": {config key:
        value} that they were trained with, as far as that is known. Those of other frameworks get
        this project's names, where READERS knows them.

    Raises:
        CheckpointError: missing, damaged, not a file of weights, or it holds more than plain data.
    """
    text = str(address)
    if text.startswith("timm://"):
        return load_timm(text, read_file)
    content = read_file(find_weights(address))
    for address in READERS.values():
        content = resolve(address)(content)
    expects = plain_dict(content.get("expects"))
    expects |= expects_of(text)
    if isinstance(content.get("provenance"), dict):
        provenance = plain_dict(content["provenance"])
        expects |= plain_dict(provenance.get("expects"))
        content.setdefault("thing_classes", provenance.get("class_names", []))
    return {**content, "expects": expects}


def read_entries(path: Path) -> dict[str, Any]:
    """Return what a file holds beside its weights, without reading these where it is an archive.

    Raises:
        CheckpointError: see load_file.
    """
    try:
        with path.open("rb") as file:
            is_archive = file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise CheckpointError(f"Weights file {path} cannot be read: {error}") from error
    if not is_archive:
        return read_file(path)
    _check_archive(path)
    return plain_dict(_load_torch(path, is_archive=True, mapped=True))


def find_weights(address: str | Path) -> Path:
    """Return the local file of weights that a path or address names; see find_file.

    A download is read once before it is kept, so that a broken one does not stay in the cache.
    """
    return find_file(address, check=read_file)


def plain_dict(value: Any) -> dict[Any, Any]:
    """A plain dict of a dict; of anything else, an empty one.

    A file can give an OrderedDict the attributes "items" and "keys"; dict.items passes by them.
    """
    return dict(dict.items(value)) if isinstance(value, dict) else {}


def read_file(path: Path) -> dict[str, Any]:
    """A local file's content as it is, with the weights as "model".

    Raises:
        CheckpointError: see load_file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"Weights file {path} cannot be read: {error}") from error
    if start.startswith(b"PK\x03\x04"):
        _check_archive(path)
        content = _load_torch(path, is_archive=True)
    elif start.startswith(_LEGACY_TORCH):
        content = _load_torch(path, is_archive=False)
    elif _is_safetensors(start, size) or path.suffix == ".safetensors":
        return _load_safetensors(path)
    elif start.startswith(b"\x80") or path.suffix == ".pkl":
        return {"model": load_caffe2_pickle(path)}
    else:
        what = "a web page" if start.lstrip()[:1] == b"<" else f"starts with {start[:8]!r}"
        raise CheckpointError(
            f"Weights file {path} ({size:,} bytes) cannot be read: it is no .pth, .safetensors or "
            f".pkl ({what}), truncated or damaged."
        )
    return _with_weights(content, path)


def _with_weights(content: Any, path: Path) -> dict[str, Any]:
    """A torch file's content with its weights as "model"; arrays among them become tensors."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors.")
    content = plain_dict(content)
    key = next((k for k in _WEIGHTS_KEYS if k in content), None)
    weights = content if key is None else content[key]
    if not isinstance(weights, dict):
        kind = type(weights).__name__
        raise CheckpointError(f"{path} holds a {kind} as {key!r}, not named tensors.")
    named = {k: as_tensor(v) for k, v in plain_dict(weights).items() if isinstance(k, str)}
    nested = key is None and any(isinstance(value, dict) for value in named.values())
    if nested and not any(isinstance(value, Tensor) for value in named.values()):
        entries = ", ".join(list(named)[:8])
        raise CheckpointError(f"{path} holds no tensors as weights; its entries are {entries}.")
    _check_tensors({k: v for k, v in named.items() if isinstance(v, Tensor)}, path)
    return {**({} if key is None else content), "model": named}


def _check_tensors(named: dict[str, Tensor], path: Path) -> None:
    """A view may claim more elements than its storage has; to copy it would fill the memory. So may
    a storage, than the file has bytes: the rest is whatever lay in the memory before.
    """
    storages: dict[int, int] = {}
    for name, tensor in named.items():
        dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
        held = tensor.untyped_storage().nbytes() if dense else 0
        if not dense or tensor.numel() * tensor.element_size() > held:
            raise CheckpointError(
                f"{path}: the tensor {name} of the shape {tuple(tensor.shape)} is not held in full "
                f"({held:,} bytes, layout {tensor.layout}, device {tensor.device})."
            )
        storages[tensor.untyped_storage().data_ptr()] = held
    claimed, size = sum(storages.values()), path.stat().st_size
    if claimed > size:
        raise CheckpointError(f"{path} claims {claimed:,} bytes of tensors; it has {size:,}.")


def _check_archive(path: Path) -> None:
    """torch writes zip archives without compression: more inside than the file has is a trap."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise _unreadable(path, str(error)) from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise _unreadable(path, "It is a TorchScript archive; save its state_dict() instead.")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _unreadable(path, "Its entries are compressed, as torch never writes them.")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise _unreadable(path, "Its entries claim more bytes than the file has.")


def _check_pickles(path: Path, is_archive: bool) -> None:
    if is_archive:
        # By torch's own reader: another may find another entry under the name.
        check_torch_pickle(io.BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))
        return
    with path.open("rb") as file:
        for _ in range(5):  # a number, a version, the machine, the content, the storages' names
            check_torch_pickle(file)


def _load_torch(path: Path, is_archive: bool, mapped: bool = False) -> Any:
    """Read a torch file; where it is `mapped`, its tensors are read when they are used."""
    try:
        _check_pickles(path, is_archive)
        if mapped:
            with torch.serialization.safe_globals(_STANDING_FOR):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # Open, without its name: newer versions of torch go by the ending of that.
        with torch.serialization.safe_globals(_STANDING_FOR), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unreadable(path, _refused(str(error))) from error
    except Exception as error:  # damaged files raise anything: KeyError, IndexError, struct.error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _unreadable(path, reason) from error


def _refused(message: str) -> str:
    """What a file asked for, of torch's long message about it."""
    for line in message.splitlines():
        for sign in ("Unsupported", "Trying to", "was not an allowed", "Can not", "Can only"):
            if sign in line:
                said = line.split("WeightsUnpickler error:")[-1]
                return said.partition("Please use")[0].strip()
    return message.strip().splitlines()[0] if message.strip() else "UnpicklingError"


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"Weights file {path} ({path.stat().st_size:,} bytes) cannot be read: it is truncated, "
        f"damaged, or holds more than tensors. {reason}"
    )


# -- safetensors -----------------------------------------------------------------------------------


def _is_safetensors(start: bytes, size: int) -> bool:
    """8 bytes with the length of a JSON header, then the header."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            metadata = file.metadata() or {}
            model = {name: file.get_tensor(name) for name in names}
        written = json.loads(metadata.get("provenance", "null"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    content: dict[str, Any] = {"model": model}
    if isinstance(written, dict):
        content["provenance"] = written
    return content


# -- writing ---------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """CheckpointError where the ending is none that weights are written with."""
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise CheckpointError(f"Write weights to a .pth or .safetensors file, not to {path}.")


def write_weights(
    path: Path,
    weights: dict[str, Tensor],
    provenance: dict[str, Any],
    key: str = "model",
) -> None:
    """Write weights alone as .pth ({key: weights, "provenance": ...}) or .safetensors, whole or not
    at all.

    Args:
        provenance: where they come from; JSON. In .safetensors it lies in the header.

    Raises:
        CheckpointError: another ending, or the file cannot be written.
    """
    check_writable(path)
    # Every tensor by itself: one that is part of a larger storage would bring that along.
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    if path.suffix == ".safetensors":
        # One entry: several would be written in any order, and the hash would change.
        metadata = {"provenance": json.dumps(provenance)}
        content = safetensors.torch.save(weights, metadata)
    else:
        buffer = io.BytesIO()
        torch.save({key: weights, "provenance": provenance}, buffer)
        content = buffer.getvalue()
    write_file(path, content)
