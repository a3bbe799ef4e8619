"""Names that are imported on first use, so that importing a package stays cheap.

A package's `__init__` lists its public names and the modules that define them:

    if TYPE_CHECKING:
        from cvpods.layers.nms import batched_nms

    __all__ = lazy_names(__name__, {"nms": ["batched_nms"]})

Type checkers read the imports; at run time the list takes their place.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any


def resolve(address: str) -> Any:
    """Import and return the object at an address "package.module:name"."""
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


def lazy_names(
    package: str, names: Mapping[str, Iterable[str]], submodules: Iterable[str] = ()
) -> list[str]:
    """Give a package names that are imported on first use.

    Args:
        package: `__name__` of the package.
        names: {module of the package: the names that it defines}.
        submodules: modules that are public names themselves.

    Returns:
        All names in order, for `__all__`.
    """
    found = {name: f"{package}.{module}:{name}" for module in names for name in names[module]}
    module = sys.modules[package]
    module.__dict__["_lazy_names"] = found
    module.__dict__["_lazy_submodules"] = tuple(submodules)
    module.__class__ = _LazyPackage
    return sorted([*found, *submodules])


class _LazyPackage(ModuleType):
    """Package whose public names are looked up on first use and then kept."""

    _lazy_names: dict[str, str]
    _lazy_submodules: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        if name in self._lazy_submodules:
            return importlib.import_module(f"{self.__name__}.{name}")
        if name not in self._lazy_names:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = resolve(self._lazy_names[name])
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Python sets every imported module as an attribute of its package. A module that has the
        # name of a public function (cvpods.layers.nms) must not hide the function.
        if not (isinstance(value, ModuleType) and name in self._lazy_names):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._lazy_names, *self._lazy_submodules})
