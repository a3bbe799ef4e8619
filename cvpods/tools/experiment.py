"""An experiment is a folder with config.py (`config`) and net.py (`build_model`)."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cvpods.utils.errors import ConfigError, did_you_mean

_LOADED: list[Path] = []


def load_experiment(folder: str | Path) -> tuple[Any, Callable[[Any], Any]]:
    """Import config.py and net.py of a folder, as modules `config` and `net`.

    The folder goes to the front of sys.path, so that its files may import each other, and a
    package called `config` does not get in the way. Modules of an experiment loaded before are
    forgotten.

    Returns:
        (config, build_model).

    Raises:
        ConfigError: a file or a name is missing.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.is_file() else "does not exist"
        raise ConfigError(f"The experiment's folder {folder} {what}.{_nearest(folder)}")
    for name in ("config.py", "net.py"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder} is not an experiment: it has no {name}. Run inside an experiment's "
                "folder (cd playground/atss.res50.1x), or name it with --dir."
            )
    _forget_experiments()
    sys.path.insert(0, str(folder))
    _LOADED.append(folder)
    for name in ("config", "net"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    # Python hides these outside __main__; here they tell the user which keys to write anew.
    warnings.filterwarnings("default", r"(SOLVER|INPUT|TRAINER)\.", DeprecationWarning)
    config_module, net_module = importlib.import_module("config"), importlib.import_module("net")
    for module, name in ((config_module, "config"), (net_module, "build_model")):
        if not hasattr(module, name):
            raise ConfigError(f"{module.__file__} must define `{name}`.")
    return config_module.config, net_module.build_model


def _nearest(folder: Path) -> str:
    """Return ' Did you mean X?' for the folder beside it with the nearest name."""
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    return did_you_mean(folder.name, [path.name for path in beside if path.is_dir()])


def _forget_experiments() -> None:
    for folder in _LOADED:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            # A script that runs in the folder stays: pickle looks its functions up there.
            if file and Path(file).parent == folder and name not in ("__main__", "__mp_main__"):
                del sys.modules[name]
    _LOADED.clear()
