"""Catalogue of published backbones: where each file is, and the input and network it expects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvpods.utils.errors import CheckpointError
from cvpods.utils.timm import import_timm

Expects = dict[str, Any]  # {dotted config key: value}

# Caffe's networks read BGR; the standard deviation is part of their first convolution.
CAFFE_BGR: Expects = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
}
IMAGENET_RGB: Expects = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}


def _network(depth: int, groups: int = 1, width: int = 64, stride_in_1x1: bool = False) -> Expects:
    return {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width,
        "MODEL.RESNETS.STRIDE_IN_1X1": stride_in_1x1,
    }


@dataclass(frozen=True)
class PublishedWeights:
    """A published file of weights.

    Args:
        url: its publisher's address.
        expects: the config keys that it was trained with, and their values.
        sha256: the first digits of its hash, or "".
        equivalent: torchvision's network of the same shape, or "".
    """

    url: str
    expects: Expects = field(default_factory=dict)
    sha256: str = ""
    equivalent: str = ""


DETECTRON = "https://dl.fbaipublicfiles.com/detectron/"
DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
MMLAB = "https://download.openmmlab.com/pretrain/third_party/"

_TV = "/torchvision/"
_R50_CAFFE = {**CAFFE_BGR, **_network(50, stride_in_1x1=True)}
_R101_CAFFE = {**CAFFE_BGR, **_network(101, stride_in_1x1=True)}
_X101_32X8D_D2 = {**CAFFE_BGR, "MODEL.PIXEL_STD": [57.375, 57.12, 58.395], **_network(101, 32, 8)}


def _hash_in_name(url: str) -> str:
    """Return the digits of the hash with which torchvision's and OpenMMLab's file names end."""
    return url.rpartition("-")[2].partition(".")[0]


# {path below ImageNetPretrained/: (expected keys, torchvision's equivalent)}
_DETECTRON2_FILES = {
    "MSRA/R-50.pkl": (_R50_CAFFE, "resnet50"),
    "MSRA/R-101.pkl": (_R101_CAFFE, "resnet101"),
    "FAIR/X-101-32x8d.pkl": (_X101_32X8D_D2, "resnext101_32x8d"),
    "torchvision/R-50.pkl": ({**IMAGENET_RGB, **_network(50)}, "resnet50"),
    "torchvision/R-101.pkl": ({**IMAGENET_RGB, **_network(101)}, "resnet101"),
}
# {name: (path below ImageNetPretrained/, expected keys, torchvision's equivalent)}
_DETECTRON_FILES = {
    "MSRA/R-50": ("MSRA/R-50.pkl", _R50_CAFFE, "resnet50"),
    "MSRA/R-101": ("MSRA/R-101.pkl", _R101_CAFFE, "resnet101"),
    # Detectron's own file has standard deviation 1, as in the code of FreeAnchor and ATSS.
    "FAIR/20171220/X-101-32x8d": (
        "20171220/X-101-32x8d.pkl",
        {**CAFFE_BGR, **_network(101, 32, 8)},
        "resnext101_32x8d",
    ),
    "FAIR/X-101-64x4d": (
        "FBResNeXt/X-101-64x4d.pkl",
        {**CAFFE_BGR, **_network(101, 64, 4)},
        "resnext101_64x4d",
    ),
}
# {name: (file, expected keys, torchvision's equivalent)}
_MMLAB_FILES = {
    "resnext101_32x4d": (
        "resnext101_32x4d-a5af3160.pth",
        {**IMAGENET_RGB, **_network(101, 32, 4)},
        "",
    ),
    "resnext101_64x4d": (
        "resnext101_64x4d-ee2c6f71.pth",
        {**IMAGENET_RGB, **_network(101, 64, 4)},
        "resnext101_64x4d",
    ),
    "detectron/resnet50_caffe": ("resnet50_caffe-788b5fa3.pth", _R50_CAFFE, "resnet50"),
    "detectron/resnet101_caffe": ("resnet101_caffe-3ad79236.pth", _R101_CAFFE, "resnet101"),
    "detectron2/resnet50_caffe": ("resnet50_msra-5891d200.pth", _R50_CAFFE, "resnet50"),
    "detectron2/resnet101_caffe": ("resnet101_msra-6cc46731.pth", _R101_CAFFE, "resnet101"),
    "detectron2/resnext101_32x8d": (
        "resnext101_32x8d-1516f1aa.pth",
        _X101_32X8D_D2,
        "resnext101_32x8d",
    ),
}
_IMAGENET = "ImageNetPretrained/"
# {the address that configs write: file}
CATALOG: dict[str, PublishedWeights] = {
    **{
        f"detectron2://{_IMAGENET}{path}": PublishedWeights(
            f"{DETECTRON2}{_IMAGENET}{path}", expects, equivalent=equivalent
        )
        for path, (expects, equivalent) in _DETECTRON2_FILES.items()
    },
    **{
        f"catalog://{_IMAGENET}{name}": PublishedWeights(
            f"{DETECTRON}{_IMAGENET}{path}", expects, equivalent=equivalent
        )
        for name, (path, expects, equivalent) in _DETECTRON_FILES.items()
    },
    **{
        f"open-mmlab://{name}": PublishedWeights(
            MMLAB + file, expects, _hash_in_name(file), equivalent
        )
        for name, (file, expects, equivalent) in _MMLAB_FILES.items()
    },
}
_BY_URL = {entry.url: entry for entry in CATALOG.values()}

# ResNets of torchvision and timm that this project's ResNet can represent.
RESNETS = {
    "resnet18": _network(18),
    "resnet34": _network(34),
    "resnet50": _network(50),
    "resnet101": _network(101),
    "resnet152": _network(152),
    "resnext50_32x4d": _network(50, 32, 4),
    "resnext101_32x8d": _network(101, 32, 8),
    "resnext101_64x4d": _network(101, 64, 4),
    "wide_resnet50_2": _network(50, 1, 128),
    "wide_resnet101_2": _network(101, 1, 128),
}


def has_unique_name(known: PublishedWeights) -> bool:
    """Return True if the last part of a file's URL identifies the file.

    X-101-32x8d.pkl is the name of two different files. R-50.pkl without a folder is MSRA's file,
    not torchvision's.
    """
    name = known.url.rpartition("/")[2]
    alike = [e for e in CATALOG.values() if e.url.endswith(f"/{name}") and _TV not in e.url]
    return bool(alike) and all(entry.expects == known.expects for entry in alike)


def expected_keys(address: str) -> Expects:
    """Return the config keys that published weights expect; {} for a path and for cvpods://."""
    if "://" not in address or address.startswith("cvpods://") or Path(address).is_file():
        return {}
    return dict(find_published(address.partition("#")[0]).expects)


def find_published(address: str) -> PublishedWeights:
    """Return the catalogue's entry of an address; for an unlisted URL, an entry without details.

    Raises:
        CheckpointError: the address is of a catalogued or unknown kind, and is not listed.
    """
    if address in CATALOG:
        return CATALOG[address]
    if address in _BY_URL:
        return _BY_URL[address]
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    if entry := _find_torchvision_url(rest):
        return entry
    if scheme in ("http", "https"):
        return PublishedWeights(address)
    if scheme == "detectron2":
        return PublishedWeights(DETECTRON2 + rest)
    if scheme == "torchvision":
        return _find_torchvision(rest)
    if scheme == "timm":
        return _find_timm(rest)
    known = [name for name in CATALOG if name.startswith(f"{scheme}://")]
    if known:
        raise CheckpointError(
            f"MODEL.WEIGHTS {address} is not in the catalogue, which has {', '.join(known)}."
        )
    raise CheckpointError(
        f"MODEL.WEIGHTS {address}: unknown kind of address {scheme}://. Use a path, http(s)://, "
        "detectron2://, catalog://, open-mmlab://, torchvision://, timm:// or cvpods://."
    )


def _find_torchvision_url(rest: str) -> PublishedWeights | None:
    """Return the entry of a URL of one of torchvision's ResNets, the same as for its name."""
    if not rest.startswith("download.pytorch.org/"):
        return None
    import torchvision

    for name in RESNETS:
        for member in torchvision.models.get_model_weights(name):
            if member.url.endswith(rest):
                return _find_torchvision(f"{name}?{member.name}")
    return None


def _find_torchvision(rest: str) -> PublishedWeights:
    """Return the entry of torchvision://`rest`.

    Args:
        rest: a network's name, and optionally its weights: resnet50, resnet50?IMAGENET1K_V2. The
            default is the first version of the weights.

    Raises:
        CheckpointError: torchvision does not have the network or the weights.
    """
    import torchvision

    name, _, version = rest.partition("?")
    try:
        versions = torchvision.models.get_model_weights(name)
    except ValueError as error:
        known = torchvision.models.list_models(torchvision.models)
        known = [m for m in known if "res" in m or "mobile" in m]
        raise CheckpointError(
            f"MODEL.WEIGHTS torchvision://{rest}: torchvision has no network of that name; it has "
            f"{', '.join(known)} and others."
        ) from error
    names = [member.name for member in versions]
    if (version or names[0]) not in names:
        raise CheckpointError(
            f"MODEL.WEIGHTS torchvision://{rest}: {name} has the weights {', '.join(names)}: "
            f"torchvision://{name}?{names[0]}"
        )
    url = versions[version or names[0]].url
    return PublishedWeights(url, {**IMAGENET_RGB, **RESNETS.get(name, {})}, _hash_in_name(url))


def _find_timm(name: str) -> PublishedWeights:
    """Return the entry of timm://`name`.

    Args:
        name: a network's name, and optionally the tag of its weights after a dot.

    Raises:
        CheckpointError: timm does not have the network or the weights.
    """
    timm = import_timm()
    try:
        settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # timm does not have the network or the weights
        settings = None
    if settings is None:
        near = timm.list_pretrained(f"{name[:6]}*")[:8] or "timm.list_pretrained()"
        raise CheckpointError(
            f"MODEL.WEIGHTS timm://{name}: timm has no such weights; near: {near}."
        )
    mean, std = ([255 * value for value in values] for values in (settings.mean, settings.std))
    colors = {"INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std}
    expects = {**colors, **RESNETS.get(settings.architecture or "", {})}
    return PublishedWeights(f"timm://{name}", expects)
