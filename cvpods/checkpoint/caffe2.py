"""Reader of backbone files (.pkl) from Caffe2 and detectron2, with keys in this project's names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from cvpods.checkpoint.download import read_limit
from cvpods.checkpoint.pickle_instructions import PlainPickleError
from cvpods.checkpoint.plain_pickle import load_plain_pickle
from cvpods.checkpoint.plain_values import as_tensor
from cvpods.utils.errors import CheckpointError

# The variable that limits the size of a .pkl file, which is read into memory at once, and its
# default.
MAX_PICKLE_GB = ("CVPODS_MAX_PICKLE_GB", 4.0)


def load_caffe2_pickle(path: Path) -> dict[str, Tensor]:
    """Read a .pkl file of arrays. detectron2's keys are kept; Caffe2's blobs are renamed.

    Raises:
        CheckpointError: the file is damaged, or holds anything but arrays and plain values.
    """
    _check_size(path)
    try:
        content = load_plain_pickle(path.read_bytes())
    except PlainPickleError as error:
        raise CheckpointError(f"{path} is refused: not a file of plain arrays: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named arrays.")
    converted = "model" in content
    named = content["model"] if converted else content.get("blobs", content)
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named):
        raise CheckpointError(f"{path} holds no arrays by name.")
    if converted:
        return _to_tensors(named)
    kept = {name: blob for name, blob in named.items() if not name.endswith("_momentum")}
    return _to_tensors({rename_caffe2(name): blob for name, blob in kept.items()})


def _check_size(path: Path) -> None:
    """Refuse a file that may not fit into memory, before it is read.

    Raises:
        CheckpointError: the file is larger than MAX_PICKLE_GB.
    """
    size, most = path.stat().st_size, read_limit(*MAX_PICKLE_GB)
    if size > most * 1e9:
        raise CheckpointError(
            f"{path} has {size:,} bytes; of .pkl files at most {most:g} GB are read. If it is a "
            f"file of weights and the memory is large enough: export {MAX_PICKLE_GB[0]}=N."
        )


def _to_tensors(values: dict[str, Any]) -> dict[str, Tensor]:
    tensors = {name: as_tensor(value) for name, value in values.items()}
    return {name: value for name, value in tensors.items() if isinstance(value, Tensor)}


# These apply in order, after "_" has become ".".
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
    """Return this project's name of a Caffe2 blob.

    For example, res2_0_branch2a_bn_s becomes res2.0.conv1.norm.weight.
    """
    name = name.replace("_", ".")
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
