"""Reader of torch's files (.pth), which accepts plain data and runs no code from them."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvpods.checkpoint.plain_values import CONSTRUCTORS, PlainArray, PlainDtype, as_tensor
from cvpods.checkpoint.torch_pickle import check_torch_pickle
from cvpods.utils.errors import CheckpointError
from cvpods.utils.torch_private import read_archive_record

# The first bytes of a zip archive, which torch >= 1.6 writes.
ARCHIVE = b"PK\x03\x04"
# The first bytes of a file of torch < 1.6.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Entries under which files keep the weights.
_WEIGHTS_KEYS = ("model", "state_dict", "model_state_dict", "weights")


class Inert:
    """Stand-in for an object of another program's training state, without content or behaviour."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Stand-ins for the classes and functions that files of weights name, and those names.
_SAFE_GLOBALS: list[Any] = [
    (Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
    (Inert, "argparse.Namespace"),
    (PlainArray, "numpy.ndarray"),
    (PlainDtype, "numpy.dtype"),
    *((made, name) for name, made in CONSTRUCTORS.items() if name.startswith("numpy.core.")),
    *((made, name) for name, made in CONSTRUCTORS.items() if name.startswith("numpy._core.")),
]


def load_torch_file(path: Path, start: bytes, mapped: bool = False) -> Any:
    """Return the content of a torch file.

    Args:
        start: the first bytes of the file, which begin with ARCHIVE or LEGACY.
        mapped: read the tensors of an archive only when they are used.

    Raises:
        CheckpointError: the file is truncated, damaged, or holds more than plain data.
    """
    is_archive = start.startswith(ARCHIVE)
    if is_archive:
        _check_archive(path)
    try:
        _check_pickles(path, is_archive)
        if mapped:
            with torch.serialization.safe_globals(_SAFE_GLOBALS):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # Pass an open file instead of its name: newer versions of torch judge by the name's suffix.
        with torch.serialization.safe_globals(_SAFE_GLOBALS), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise unreadable_error(path, _shorten_refusal(str(error))) from error
    except Exception as error:  # damaged files raise anything: KeyError, IndexError, struct.error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise unreadable_error(path, reason) from error


def _check_archive(path: Path) -> None:
    """Refuse archives that torch does not write, before anything in them is read.

    torch stores entries without compression. An archive that claims more bytes than the file has
    could fill the memory.

    Raises:
        CheckpointError: the archive is damaged, compressed, too large, or of TorchScript.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise unreadable_error(path, str(error)) from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise unreadable_error(path, "It is a TorchScript archive; save its state_dict() instead.")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise unreadable_error(path, "Its entries are compressed, as torch never writes them.")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise unreadable_error(path, "Its entries claim more bytes than the file has.")


def _check_pickles(path: Path, is_archive: bool) -> None:
    if is_archive:
        # Use torch's own reader: another reader may find another entry under the same name.
        check_torch_pickle(io.BytesIO(read_archive_record(path, "data.pkl")))
        return
    with path.open("rb") as file:
        # magic number, version, system information, content, names of the storages
        for _ in range(5):
            check_torch_pickle(file)


def _shorten_refusal(message: str) -> str:
    """Return the part of torch's long error message that names what the file asked for."""
    for line in message.splitlines():
        for sign in ("Unsupported", "Trying to", "was not an allowed", "Can not", "Can only"):
            if sign in line:
                reason = line.split("WeightsUnpickler error:")[-1]
                return reason.partition("Please use")[0].strip()
    return message.strip().splitlines()[0] if message.strip() else "UnpicklingError"


def unreadable_error(path: Path, reason: str) -> CheckpointError:
    """Return the error for a file that cannot be read, to be raised by the caller."""
    return CheckpointError(
        f"Weights file {path} ({path.stat().st_size:,} bytes) cannot be read: it is truncated, "
        f"damaged, or holds more than tensors. {reason}"
    )


# -- the weights among the content -----------------------------------------------------------------


def plain_dict(value: Any) -> dict[Any, Any]:
    """Return a plain dict with the items of a dict; {} for any other value.

    A file can give an OrderedDict attributes named "items" and "keys". dict.items ignores them.
    """
    return dict(dict.items(value)) if isinstance(value, dict) else {}


def extract_weights(content: Any, path: Path) -> dict[str, Any]:
    """Return a torch file's content with its weights as "model", and their arrays as tensors.

    Raises:
        CheckpointError: the content has no named tensors, or the file does not hold them in full.
    """
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
    """Refuse tensors that claim more elements than the file holds.

    A view may claim more elements than its storage has; to copy it would fill the memory. A storage
    may claim more bytes than the file has; the rest would be whatever was in the memory before.

    Raises:
        CheckpointError: a tensor, or all of them together, claim too much.
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
