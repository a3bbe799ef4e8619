"""Instances, fields of equal length that describe the objects of one image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Instances:
    """Objects of an image of `image_size` (height, width).

    Fields are attributes: `instances.gt_boxes = Boxes(...)`; all fields have the same length.
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        object.__setattr__(self, "_image_size", image_size)
        object.__setattr__(self, "_fields", {})
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "image_size":
            raise AttributeError("image_size is read-only; create a new Instances instead.")
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(f"Cannot find field '{name}' in the given Instances.")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field.

        Raises:
            AssertionError: its length differs from that of the others; the type is that of cvpods.
        """
        if self._fields and len(value) != len(self):
            raise AssertionError(
                f"All fields must have one length; got a field '{name}' of length {len(value)} "
                f"for Instances of length {len(self)}."
            )
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def get(self, name: str) -> Any:
        return self._fields[name]

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """Return these Instances with every field moved that has a method `to`."""
        moved = {
            k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()
        }
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: int | slice | Tensor) -> Instances:
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"Instances index {item} out of range for length {len(self)}.")
            item = slice(item % len(self), item % len(self) + 1)
        picked = {k: _pick(v, item) for k, v in self._fields.items()}
        return Instances(self._image_size, **picked)

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        return 0

    @staticmethod
    def cat(instance_lists: Sequence[Instances]) -> Instances:
        """Concatenate the fields of several Instances of one image size.

        Raises:
            ValueError: image sizes differ, or a field cannot be concatenated.
        """
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        sizes = {tuple(instances.image_size) for instances in instance_lists}
        if len(sizes) > 1:
            raise ValueError(
                f"Instances.cat takes Instances of one image size; got {sorted(sizes)}."
            )
        joined = {
            name: _concatenate(name, [instances.get(name) for instances in instance_lists])
            for name in first.get_fields()
        }
        return Instances(first.image_size, **joined)

    def __repr__(self) -> str:
        height, width = self._image_size
        return (
            f"Instances(num_instances={len(self)}, image_height={height}, image_width={width}, "
            f"fields={self._fields})"
        )


def _pick(value: Any, item: slice | Tensor) -> Any:
    if not isinstance(value, list) or isinstance(item, slice):
        return value[item]
    indices = item.nonzero().flatten() if item.dtype == torch.bool else item
    return [value[i] for i in indices.tolist()]


def _concatenate(name: str, values: list) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(values, dim=0)
    if isinstance(values[0], list):
        return list(itertools.chain(*values))
    if hasattr(type(values[0]), "cat"):
        return type(values[0]).cat(values)
    raise ValueError(
        f"Field '{name}' must be a tensor, a list or have a method `cat`; got "
        f"{type(values[0]).__name__}."
    )
