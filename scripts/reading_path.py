"""Measure how far a reader goes from a detector's `losses` to the formula of its paper.

    python scripts/reading_path.py               # all methods
    python scripts/reading_path.py auto_assign   # with the definitions, in the order of reading

Calls are followed from the detector's `losses` through the research package. Below the methods lie
the kernels and cvpods: a reader takes their word, so that what a method calls of the kernels counts
as a definition, but is not followed, and what it calls of cvpods does not count. `--everything`
follows calls into the kernels too. The source is read, not imported.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("atss", "free_anchor", "auto_assign", "feature_align")
# What a detector calls by an attribute: {method: (module, function)}.
ATTRIBUTES = {"atss": ("cvpods_ext.methods.atss.assign", "atss_assign")}


class Definition(NamedTuple):
    """A function, method or class of a module, and its number of lines."""

    module: str
    name: str
    lines: int
    node: ast.AST


class Module:
    """Definitions, imports and base classes of one module of cvpods_ext."""

    def __init__(self, name: str) -> None:
        self.name = name
        path = ROOT / f"{name.replace('.', '/')}.py"
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.definitions: dict[str, Definition] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        self.bases: dict[str, list[str]] = {}
        for node in self.tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self._add(node.name, node)
            if isinstance(node, ast.ClassDef):
                self.bases[node.name] = [b.id for b in node.bases if isinstance(b, ast.Name)]
                for child in node.body:
                    if isinstance(child, ast.FunctionDef):
                        self._add(f"{node.name}.{child.name}", child)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self.imports[alias.asname or alias.name] = (node.module, alias.name)

    def _add(self, name: str, node: ast.FunctionDef | ast.ClassDef) -> None:
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        lines = (node.end_lineno or node.lineno) - first + 1
        self.definitions[name] = Definition(self.name, name, lines, node)


class Reader:
    """The definitions that a reader meets, in the order of calls."""

    def __init__(self, everything: bool) -> None:
        self.everything = everything
        self.modules: dict[str, Module] = {}
        self.found: dict[tuple[str, str], Definition] = {}

    def module(self, name: str) -> Module:
        if name not in self.modules:
            self.modules[name] = Module(name)
        return self.modules[name]

    def follow(self, module: Module, name: str, owner: str | None) -> None:
        """Add a definition, and then those that it uses, depth first."""
        definition = module.definitions[name]
        key = (module.name, name)
        if key in self.found:
            return
        self.found[key] = definition
        if ".kernels." in module.name and not self.everything:
            return
        for node in ast.walk(definition.node):
            if isinstance(node, ast.Name):
                self._use(module, node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in ("self", "cls") and owner:
                    self._use_method(module, owner, node.attr)
            elif isinstance(node, ast.Attribute) and _is_super(node.value) and owner:
                for base in module.bases[owner]:
                    self._use_method(*self._class(module, base), node.attr)

    def _use(self, module: Module, name: str) -> None:
        if name in module.definitions:
            if not isinstance(module.definitions[name].node, ast.ClassDef) or self.everything:
                self.follow(module, name, None)
            return
        source, original = module.imports.get(name, ("", ""))
        if source.startswith("cvpods_ext.") and (ROOT / f"{source.replace('.', '/')}.py").is_file():
            other = self.module(source)
            if original in other.definitions:
                self.follow(other, original, None)

    def _use_method(self, module: Module | None, owner: str, name: str) -> None:
        """Follow a method of a class or of its nearest base in this package."""
        if module is None:
            return
        if f"{owner}.{name}" in module.definitions:
            self.follow(module, f"{owner}.{name}", owner)
            return
        for base in module.bases.get(owner, []):
            self._use_method(*self._class(module, base), name)

    def _class(self, module: Module, name: str) -> tuple[Module | None, str]:
        if name in module.definitions:
            return module, name
        source, original = module.imports.get(name, ("", name))
        known = source.startswith("cvpods_ext.") and source.count(".") > 1
        return (self.module(source), original) if known else (None, original)


def _is_super(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    )


def reading_path(method: str, everything: bool = False) -> list[Definition]:
    """Return the definitions from the detector's `losses` on."""
    path = Reader(everything)
    module = path.module(f"cvpods_ext.methods.{method}.detector")
    owner = next(name.partition(".")[0] for name in module.definitions if name.endswith(".losses"))
    path.follow(module, f"{owner}.losses", owner)
    if method in ATTRIBUTES:
        name, function = ATTRIBUTES[method]
        path.follow(path.module(name), function, None)
    return list(path.found.values())


def summary(definitions: list[Definition]) -> tuple[int, int, int]:
    """Return the numbers of files, of definitions and of lines."""
    read = [d for d in definitions if ".kernels." not in d.module] or definitions
    files = {d.module for d in read}
    return len(files), len(definitions), sum(d.lines for d in read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(METHODS)} (default: all)")
    parser.add_argument("--everything", action="store_true", help="follow calls into the kernels")
    args = parser.parse_args()
    for method in args.methods or METHODS:
        definitions = reading_path(method, args.everything)
        if args.methods:
            for d in definitions:
                print(f"  {d.module.removeprefix('cvpods_ext.')}: {d.name} ({d.lines} lines)")
        if args.everything:
            files = len({d.module for d in definitions})
            lines = sum(d.lines for d in definitions)
            print(f"{method}: {files} files, {len(definitions)} definitions, {lines} lines")
        else:
            files, count, lines = summary(definitions)
            print(f"{method}: {files} files, {count} definitions, {lines} lines to read")


if __name__ == "__main__":
    main()
