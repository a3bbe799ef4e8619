"""Tables of objects by name, which experiments can extend."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cvpods.utils.errors import UnknownNameError, did_you_mean


class Registry:
    """Table of objects by name.

    Use it as a decorator (`@DATASETS.register()`) or as a call (`PATH_ROUTES.register(d, "COCO")`).
    get() returns the registered object itself, so that everyone can change a registered dict.

    Args:
        name: name of the table, for messages.
        modules: modules that register objects here. They are imported in this order, when a name
            is looked up that the table does not hold yet.
    """

    def __init__(self, name: str, modules: Iterable[str] = ()) -> None:
        self._name = name
        self._objects: dict[str, Any] = {}
        self._modules = list(modules)

    def register(self, obj: Any = None, name: str | None = None) -> Any:
        """Register `obj` under `name`, by default its `__name__`, and return it.

        Without `obj`, return a decorator that does so.

        Raises:
            AssertionError: the name is registered for another object.
        """
        if obj is None:
            return self._decorator(name)
        self._add(name or obj.__name__, obj)
        return obj

    def _decorator(self, name: str | None) -> Callable[[Any], Any]:
        def add(obj: Any) -> Any:
            self._add(name or obj.__name__, obj)
            return obj

        return add

    def _add(self, name: str, obj: Any) -> None:
        """Add an object; a name that belongs to another one is an AssertionError."""
        old = self._objects.get(name)
        # When a process loads an experiment folder twice, the same class or an equal dict is
        # registered again.
        equal = old is obj or (isinstance(obj, dict) and old == obj)
        same = equal or (
            getattr(old, "__qualname__", 0) == getattr(obj, "__qualname__", 1)
            and getattr(old, "__module__", 0) == getattr(obj, "__module__", 1)
        )
        assert name not in self._objects or same, (
            f"{self._name} already holds an object named '{name}' ({old!r}); choose another name."
        )
        self._objects[name] = obj

    def _load(self, name: str | None = None) -> None:
        """Import modules until one has registered `name`; without a name, import all of them."""
        while self._modules and name not in self._objects:
            importlib.import_module(self._modules.pop(0))

    def get(self, name: str) -> Any:
        """Return the object called `name`.

        Raises:
            UnknownNameError: the registry does not have the name. The message lists all names.
        """
        if name not in self:
            raise UnknownNameError(
                f"No object named '{name}' found in '{self._name}' registry!"
                f"{did_you_mean(name, self._objects)} Available: {', '.join(sorted(self._objects))}"
            )
        return self._objects[name]

    def __contains__(self, name: str) -> bool:
        self._load(name)
        return name in self._objects

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        self._load()
        return iter(self._objects.items())

    def __repr__(self) -> str:
        from tabulate import tabulate

        self._load()
        table = tabulate(self._objects.items(), headers=["Names", "Objects"], tablefmt="fancy_grid")
        return f"Registry of {self._name}:\n{table}"
