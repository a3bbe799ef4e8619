"""Experiments: folders with config.py (`config`) and net.py (`build_model`)."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cvpods.configs import BaseConfig
from cvpods.tools.flags import check_num_gpus
from cvpods.utils.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

BuildModel: TypeAlias = "Callable[[BaseConfig], nn.Module]"

_LOADED: list[Path] = []


def load_config(
    args: argparse.Namespace, check: Callable[[BaseConfig], None] | None = None
) -> tuple[BaseConfig, BuildModel]:
    """Return the experiment's (config, build_model), with the command line's overrides.

    What needs no torch is checked first: the folder, the names of keys, the types of values.

    Args:
        check: a further check of the config, before net.py is imported.

    Raises:
        ConfigError: the folder, an override or MODEL.DEVICE cannot be used.
    """
    config = read_config(args)
    if check is not None:
        check(config)
    check_num_gpus(args)
    _check_typed_device(args.opts)
    from cvpods.utils.logger import setup_logger

    setup_logger()
    return config, _import_from("net", "build_model")


def read_config(args: argparse.Namespace) -> BaseConfig:
    """Return the experiment's config with the command line's overrides; net.py is not imported.

    Raises:
        ConfigError: the folder or an override cannot be used.
    """
    on_cpu = args.num_gpus == 0 or getattr(args, "num_processes", None) is not None
    return _open_config(args.dir or ".", args.opts, "cpu" if on_cpu else None)


def open_experiment(
    folder: str | Path, opts: Sequence[Any] = (), device: str | None = None
) -> tuple[BaseConfig, BuildModel]:
    """Return the (config, build_model) of a folder, with KEY VALUE overrides and MODEL.DEVICE.

    Raises:
        ConfigError: the folder or an override cannot be used.
    """
    return _open_config(folder, opts, device), _import_from("net", "build_model")


def load_experiment(folder: str | Path) -> tuple[BaseConfig, BuildModel]:
    """Import config.py and net.py of a folder, as modules `config` and `net`.

    Returns:
        (config, build_model).

    Raises:
        ConfigError: a file or a name is missing.
    """
    _enter(folder)
    return _import_from("config", "config"), _import_from("net", "build_model")


def _open_config(folder: str | Path, opts: Sequence[Any], device: str | None) -> BaseConfig:
    """Return the config of a folder, with overrides and the full path of OUTPUT_DIR."""
    _enter(folder)
    config: BaseConfig = _import_from("config", "config")
    config.merge_from_list(list(opts))
    if device is not None:
        config.MODEL.DEVICE = device
    config.OUTPUT_DIR = str(Path(folder).resolve() / os.path.expanduser(config.OUTPUT_DIR))
    return config


def _check_typed_device(opts: Sequence[Any]) -> None:
    """Refuse MODEL.DEVICE cuda on a command line if this machine has no GPU."""
    device = dict(zip(opts[::2], opts[1::2], strict=False)).get("MODEL.DEVICE", "")
    if not str(device).startswith("cuda"):
        return
    from cvpods.utils.env import has_gpus

    if not has_gpus():
        raise ConfigError(
            f"MODEL.DEVICE {device} needs a CUDA GPU, and this machine has none that torch can "
            "use. For the CPU, write MODEL.DEVICE cpu or leave it out."
        )


def _enter(folder: str | Path) -> None:
    """Make config.py and net.py of a folder the modules `config` and `net`.

    The folder goes to the front of sys.path, so that its files may import each other, and a
    package called `config` does not get in the way. Modules of an experiment loaded before are
    forgotten.

    Raises:
        ConfigError: the folder is not an experiment's.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.is_file() else "does not exist"
        raise ConfigError(f"The experiment's folder {folder} {what}.{_nearest(folder)}")
    for name in ("config.py", "net.py"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder} is not an experiment: it has no {name}. Run the command inside an "
                "experiment's folder (cd playground/atss.res50.1x), or name the folder with --dir."
            )
    _forget_experiments()
    sys.path.insert(0, str(folder))
    _LOADED.append(folder)
    for name in ("config", "net"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    # Python hides these outside __main__; here they tell the user which keys to rewrite.
    warnings.filterwarnings("default", r"(SOLVER|INPUT|TRAINER)\.", DeprecationWarning)


def _import_from(module: str, name: str) -> Any:
    """Return a name of `config` or `net`, the modules of the folder that was entered last."""
    imported = importlib.import_module(module)
    if not hasattr(imported, name):
        raise ConfigError(f"{imported.__file__} must define `{name}`.")
    return getattr(imported, name)


def _nearest(folder: Path) -> str:
    """Return ' Did you mean X?' for the folder beside it with the nearest name."""
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    return did_you_mean(folder.name, [path.name for path in beside if path.is_dir()])


def _forget_experiments() -> None:
    """Remove loaded experiments from sys.path and their modules from sys.modules."""
    for folder in map(str, _LOADED):
        if folder in sys.path:
            sys.path.remove(folder)
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            # A script that runs in the folder stays: pickle looks its functions up there.
            if file and os.path.dirname(file) == folder and name not in ("__main__", "__mp_main__"):
                del sys.modules[name]
    _LOADED.clear()
