"""Record of the weights that a model has, and of the classes that they were trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cvpods.checkpoint.addresses import file_sha256, find_file

DIGITS = 8


@dataclass(frozen=True)
class Origin:
    """Origin of a model's weights.

    weights: the path or address that was loaded; "" for a model that was built in memory.
    file: the local file of the weights, or None.
    sha256: the first eight digits of the file's hash; "" without a file.
    iteration: number of training iterations of the weights; None if unknown.
    class_names: names of class 0, 1, ...; empty if unknown.
    """

    weights: str = ""
    file: Path | None = None
    sha256: str = ""
    iteration: int | None = None
    class_names: tuple[str, ...] = ()

    @classmethod
    def of_file(
        cls,
        weights: str | Path,
        content: Mapping[str, Any] | None = None,
        class_names: Sequence[str] = (),
    ) -> Origin:
        """Return the origin for a file of weights or a graph.

        Args:
            content: the file's content; its "iteration" counts from 0.
            class_names: as stored in the file; ignored unless they are all texts.
        """
        file = None if str(weights).startswith("timm://") else find_file(str(weights))
        last = (content or {}).get("iteration")
        names = class_names if isinstance(class_names, (list, tuple)) else ()
        return cls(
            weights=str(weights),
            file=file,
            sha256=file_sha256(file)[:DIGITS] if file is not None else "",
            iteration=last + 1 if isinstance(last, int) else None,
            class_names=tuple(names) if all(isinstance(n, str) for n in names) else (),
        )


UNKNOWN = Origin()


def set_origin(model: nn.Module, origin: Origin) -> None:
    """Store on a model where its weights come from. Its state dict does not change."""
    vars(model)["pods_origin"] = origin


def origin_of(model: object) -> Origin:
    """Return what set_origin() stored on a model, or on the detector that it wraps."""
    for candidate in (model, getattr(model, "detector", None)):
        origin = getattr(candidate, "pods_origin", None)
        if isinstance(origin, Origin):
            return origin
    return UNKNOWN
