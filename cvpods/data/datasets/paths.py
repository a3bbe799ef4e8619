"""Names of data sets, and the search for their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cvpods
from cvpods.data.registry import DATASETS, PATH_ROUTES
from cvpods.utils.errors import DataError, did_you_mean

_COCO: dict[str, Any] = {
    "dataset_type": "COCODataset",
    "evaluator_type": {"coco": "coco"},
    "coco": {
        **{
            f"coco_{year}_{split}": (
                f"coco/{split}{year}",
                f"coco/annotations/instances_{split}{year}.json",
            )
            for year in (2014, 2017)
            for split in ("train", "val")
        },
        "coco_2014_minival": (
            "coco/val2014",
            "coco/annotations/instances_minival2014.json",
        ),
        "coco_2014_valminusminival": (
            "coco/val2014",
            "coco/annotations/instances_valminusminival2014.json",
        ),
        "coco_2017_val_100": (
            "coco/val2017",
            "coco/annotations/instances_val2017_100.json",
        ),
        "coco_2017_test": ("coco/test2017", "coco/annotations/image_info_test2017.json"),
        "coco_2017_test-dev": (
            "coco/test2017",
            "coco/annotations/image_info_test-dev2017.json",
        ),
    },
}
_VOC: dict[str, Any] = {
    "dataset_type": "VOCDataset",
    "evaluator_type": {"voc": "coco"},
    "voc": {
        f"voc_{year}_{split}": (f"voc/VOC{year}", split)
        for year in (2007, 2012)
        for split in ("train", "val", "trainval", "test")
    },
}
_OWN = "registered by register_coco_instances"
PATH_ROUTES.register(_COCO, "COCO")
PATH_ROUTES.register(_VOC, "VOC")


def register_coco_instances(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a COCO-format data set: `register_coco_instances("cells", json, images)`.

    Relative paths are searched in the current folder, then under the data roots, see resolve().
    Registering a name a second time replaces its paths.
    """
    if _OWN not in PATH_ROUTES:
        route = {"dataset_type": "COCODataset", "evaluator_type": {"coco": "coco"}, "coco": {}}
        PATH_ROUTES.register(route, _OWN)
    PATH_ROUTES.get(_OWN)["coco"][name] = (str(image_root), str(json_file))


def find_route(name: str) -> dict[str, Any]:
    """Return the route of a data set name.

    Names from register_coco_instances() take precedence; otherwise the name up to its first
    underscore is the key of the route in PATH_ROUTES.

    Raises:
        DataError: the name is unknown.
    """
    own = _OWN in PATH_ROUTES and name in _names(PATH_ROUTES.get(_OWN))
    key = _OWN if own else name.split("_")[0].upper()
    known = [n for _, route in PATH_ROUTES for n in _names(route)]
    if key not in PATH_ROUTES or name not in _names(PATH_ROUTES.get(key)):
        raise DataError(
            f"Unknown data set {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}. "
            "To add your own, call "
            f"cvpods.data.register_coco_instances({name!r}, json, image_root)."
        )
    return PATH_ROUTES.get(key)


def _names(route: dict[str, Any]) -> list[str]:
    return [name for task in route["evaluator_type"] for name in route.get(task, {})]


def dataset_class(name: str) -> type:
    """Return the class that reads a data set."""
    return DATASETS.get(find_route(name)["dataset_type"])


def entry(name: str) -> tuple[str, str, str]:
    """Return (image folder, annotation file or split, evaluator type) of a data set name."""
    route = find_route(name)
    for task, evaluator in route["evaluator_type"].items():
        if name in route.get(task, {}):
            return (*route[task][name], evaluator)
    raise DataError(f"The route of data set {name!r} has no entry for it.")


def data_roots() -> list[Path]:
    """Return the folders that are searched for data, in order.

    They are $CVPODS_DATASETS, if it is set; datasets/ in the current folder or in the nearest
    folder above that has one (the repository's, from inside an experiment); and datasets/ beside
    the package.
    """
    here = Path.cwd()
    above = [folder / "datasets" for folder in (here, *here.parents)]
    nearest = next((folder for folder in above if folder.is_dir()), above[0])
    roots = [nearest, Path(cvpods.__file__).resolve().parents[1] / "datasets"]
    roots = list(dict.fromkeys(roots))
    named = os.environ.get("CVPODS_DATASETS")
    return [Path(named).expanduser(), *roots] if named else roots


def resolve(path: str | Path, description: str) -> Path:
    """Find a file or folder; search a relative path in the current folder and under each data root.

    `coco/val2017` is also searched as `coco/images/val2017`.

    Args:
        description: a noun phrase for the file, for the error message.

    Raises:
        DataError: the file does not exist; the message lists the paths tried.
    """
    path = Path(path).expanduser()
    relative = [path, path.parent / "images" / path.name]
    roots = [Path()] if path.is_absolute() else [Path(), *data_roots()]
    tried = [root / name for root in roots for name in relative]
    for candidate in tried:
        if candidate.exists():
            return candidate
    raise DataError(
        f"{description} was not found; tried {', '.join(str(candidate) for candidate in tried)}. "
        "Link the data to one of these paths, or set $CVPODS_DATASETS to the folder that contains "
        "it (datasets/README.md)."
    )
