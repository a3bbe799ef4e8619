"""Published backbones: where they are, and what input and network they expect of a config."""

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
class Published:
    """A file of weights.

    Args:
        url: where its publishers keep it.
        expects: config keys that it was trained with, and their values.
        sha256: the hash's first digits, "" where they are not known.
        equivalent: torchvision's network of the same shape.
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


def _digits(url: str) -> str:
    """The digits of its hash in which torchvision's and OpenMMLab's file names end."""
    return url.rpartition("-")[2].partition(".")[0]


# path below ImageNetPretrained/ -> (what it expects, torchvision's equivalent)
_OF_DETECTRON2 = {
    "MSRA/R-50.pkl": (_R50_CAFFE, "resnet50"),
    "MSRA/R-101.pkl": (_R101_CAFFE, "resnet101"),
    "FAIR/X-101-32x8d.pkl": (_X101_32X8D_D2, "resnext101_32x8d"),
    "torchvision/R-50.pkl": ({**IMAGENET_RGB, **_network(50)}, "resnet50"),
    "torchvision/R-101.pkl": ({**IMAGENET_RGB, **_network(101)}, "resnet101"),
}
# name -> (path below ImageNetPretrained/, what it expects, equivalent)
_OF_DETECTRON = {
    "MSRA/R-50": ("MSRA/R-50.pkl", _R50_CAFFE, "resnet50"),
    "MSRA/R-101": ("MSRA/R-101.pkl", _R101_CAFFE, "resnet101"),
    # Detectron's own file: standard deviation 1, as in the code of FreeAnchor and ATSS.
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
# name -> (file, what it expects, equivalent)
_OF_MMLAB = {
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
# By the address that configs write.
CATALOG: dict[str, Published] = {
    **{
        f"detectron2://{_IMAGENET}{path}": Published(
            f"{DETECTRON2}{_IMAGENET}{path}", expects, equivalent=equivalent
        )
        for path, (expects, equivalent) in _OF_DETECTRON2.items()
    },
    **{
        f"catalog://{_IMAGENET}{name}": Published(
            f"{DETECTRON}{_IMAGENET}{path}", expects, equivalent=equivalent
        )
        for name, (path, expects, equivalent) in _OF_DETECTRON.items()
    },
    **{
        f"open-mmlab://{name}": Published(MMLAB + file, expects, _digits(file), equivalent)
        for name, (file, expects, equivalent) in _OF_MMLAB.items()
    },
}
_BY_URL = {published.url: published for published in CATALOG.values()}

# ResNets of torchvision and timm that this project's ResNet can be.
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


def has_own_name(known: Published) -> bool:
    """Whether the last part of its URL tells what it is: X-101-32x8d.pkl is the name of two that
    differ; R-50.pkl without a folder is MSRA's, not torchvision's."""
    name = known.url.rpartition("/")[2]
    alike = [e for e in CATALOG.values() if e.url.endswith(f"/{name}") and _TV not in e.url]
    return bool(alike) and all(entry.expects == known.expects for entry in alike)


def expects_of(address: str) -> Expects:
    """What is known that the weights at a path or address expect; {} of files and of cvpods://."""
    if "://" not in address or address.startswith("cvpods://") or Path(address).is_file():
        return {}
    return dict(published(address.partition("#")[0]).expects)


def published(address: str) -> Published:
    """What is known of an address; of one that is not in the catalogue, its URL alone.

    Raises:
        CheckpointError: an address of a kind that has names, and not this one.
    """
    if address in CATALOG:
        return CATALOG[address]
    if address in _BY_URL:
        return _BY_URL[address]
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    if by_name := _torchvision_file(rest):
        return by_name
    if scheme in ("http", "https"):
        return Published(address)
    if scheme == "detectron2":
        return Published(DETECTRON2 + rest)
    if scheme == "torchvision":
        return _torchvision(rest)
    if scheme == "timm":
        return _timm(rest)
    known = [name for name in CATALOG if name.startswith(f"{scheme}://")]
    if known:
        raise CheckpointError(
            f"MODEL.WEIGHTS {address} is not in the catalogue, which has {', '.join(known)}."
        )
    raise CheckpointError(
        f"MODEL.WEIGHTS {address}: unknown kind of address {scheme}://. Use a path, http(s)://, "
        "detectron2://, catalog://, open-mmlab://, torchvision://, timm:// or cvpods://."
    )


def _torchvision_file(rest: str) -> Published | None:
    """Of a URL of one of torchvision's ResNets, the same as by its name."""
    if not rest.startswith("download.pytorch.org/"):
        return None
    import torchvision

    for name in RESNETS:
        for member in torchvision.models.get_model_weights(name):
            if member.url.endswith(rest):
                return _torchvision(f"{name}?{member.name}")
    return None


def _torchvision(rest: str) -> Published:
    """torchvision's address: resnet50, or resnet50?IMAGENET1K_V2; the first weights by default."""
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
    return Published(url, {**IMAGENET_RGB, **RESNETS.get(name, {})}, _digits(url))


def _timm(name: str) -> Published:
    """timm's address: a network's name, and the tag of its weights after a dot."""
    timm = import_timm()
    try:
        settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # no such network, or no such weights of it
        settings = None
    if settings is None:
        near = timm.list_pretrained(f"{name[:6]}*")[:8] or "timm.list_pretrained()"
        raise CheckpointError(
            f"MODEL.WEIGHTS timm://{name}: timm has no such weights; near: {near}."
        )
    mean, std = ([255 * value for value in values] for values in (settings.mean, settings.std))
    colors = {"INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std}
    return Published(f"timm://{name}", {**colors, **RESNETS.get(settings.architecture or "", {})})
