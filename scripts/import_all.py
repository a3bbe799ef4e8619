"""Import every module of both packages, and name each one that fails."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import cvpods
import cvpods_ext


def main() -> int:
    failed = 0
    names = [
        module.name
        for package in (cvpods, cvpods_ext)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"imported {len(names) - failed} of {len(names)} modules")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
