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


def main() -> int:
    """Import the modules; return the exit status."""
    names = [
        module.name
        for package in (cvpods, cvpods_ext)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    failures = 0
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a module may raise anything
            failures += 1
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"imported {len(names) - failures} of {len(names)} modules")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
