"""Caffe2-era backbone files (.pkl): read without running code, keys renamed to this project's."""

from __future__ import annotations

import collections
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvpods.utils.errors import CheckpointError

try:
    from numpy._core import multiarray, numeric
except ImportError:  # numpy < 2
    from numpy.core import multiarray, numeric


def _encode(text: str, encoding: str) -> bytes:
    """What pickles of Python 2 strings and arrays call as _codecs.encode."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not admitted")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy.core.multiarray", "scalar"): multiarray.scalar,
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy._core.multiarray", "scalar"): multiarray.scalar,
    # Pickle protocol 5.
    ("numpy.core.numeric", "_frombuffer"): numeric._frombuffer,
    ("numpy._core.numeric", "_frombuffer"): numeric._frombuffer,
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays, containers, strings and numbers; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]


def load_caffe2_pickle(path: Path) -> dict[str, Tensor]:
    """Read a .pkl of arrays: a detectron2 file ("model") or Caffe2 blobs, renamed.

    Raises:
        CheckpointError: the file is damaged, or holds anything but arrays and plain values.
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:
        raise CheckpointError(
            f"{path} is refused: not a file of plain arrays ({error})."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named arrays.")
    converted = "model" in content and "__author__" in content
    named = content["model"] if converted else content.get("blobs", content)
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named):
        raise CheckpointError(f"{path} holds no arrays by name.")
    if converted:
        return _tensors(named)
    kept = {name: blob for name, blob in named.items() if not name.endswith("_momentum")}
    return _tensors({rename_caffe2(name): blob for name, blob in kept.items()})


def _tensors(arrays: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.array(array))
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "fiu"
    }


# Applied in order, after "_" has become ".".
_RENAMES = (
    (r"\.b$", ".bias"),
    (r"\.w$", ".weight"),
    (r"bn\.(s|gamma)$", "norm.weight"),
    (r"bn\.(bias|beta)$", "norm.bias"),
    (r"bn\.(rm|running\.mean)$", "norm.running_mean"),
    (r"bn\.(riv|running\.var)$", "norm.running_var"),
    (r"gn\.s$", "norm.weight"),
    (r"gn\.bias$", "norm.bias"),
    (r"^res\.conv1\.norm\.", "conv1.norm."),
    (r"^conv1\.", "stem.conv1."),
    (r"\.branch1\.", ".shortcut."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
)


def rename_caffe2(name: str) -> str:
    """Caffe2's name of a blob -> ours: res2_0_branch2a_bn_s -> res2.0.conv1.norm.weight."""
    name = name.replace("_", ".")
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
