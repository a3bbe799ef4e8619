"""Import every module of the packages, and name each one that fails.

    python scripts/import_all.py

The exit status is 1 if a module fails.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import cvpods
import cvpods_ext


def import_modules() -> tuple[int, list[str]]:
    """Import all modules; return how many there are, and a line for each that fails."""
    names = [
        module.name
        for package in (cvpods, cvpods_ext)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    failures = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
    return len(names), failures


def main() -> int:
    """Print the result; return the exit status."""
    count, failures = import_modules()
    for line in failures:
        print(line, file=sys.stderr)
    print(f"imported {count - len(failures)} of {count} modules")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
