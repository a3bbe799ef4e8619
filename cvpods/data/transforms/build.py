"""Construction of transform generators from the (name, arguments) pairs of a config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from cvpods.data.registry import TRANSFORMS
from cvpods.data.transforms.transform import TransformCall
from cvpods.utils.errors import ConfigError


def build_transform_gens(
    pipelines: Sequence[Sequence[Any]], image_format: str = "BGR", plus_one: bool = False
) -> list[TransformCall]:
    """Build the transforms that a pipeline names.

    Args:
        pipelines: (name, keyword arguments) pairs. Names with "List" take
            transforms=[(name, arguments), ...]; "Torch_..." names take a torchvision transform.
        image_format, plus_one: channel order, and how boxes are scaled; told to transforms that
            have arguments of these names.

    Raises:
        ConfigError: a name is unknown, or its arguments do not fit.
    """
    shared = {"image_format": image_format, "plus_one": plus_one}
    return [_build(step, shared) for step in pipelines]


def _build(step: Sequence[Any], shared: Mapping[str, Any]) -> TransformCall:
    if isinstance(step, (str, Mapping)) or len(step) != 2 or not isinstance(step[0], str):
        raise ConfigError(f"A step of INPUT.AUG must be a (name, arguments) pair; got {step!r}.")
    name, arguments = step
    if name.startswith("Torch_"):
        from cvpods.data.transforms.torchvision_bridge import TorchTransformGen

        return TorchTransformGen(arguments)
    cls = TRANSFORMS.get(name)
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"The arguments of {name} must be a dict; got {arguments!r}.")
    arguments = dict(arguments)
    if "transforms" in arguments:
        arguments["transforms"] = build_transform_gens(arguments["transforms"], **shared)
    for key in shared.keys() & inspect.signature(cls.__init__).parameters.keys():
        arguments.setdefault(key, shared[key])
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}{tuple(step)[1:]} cannot be built: {error}") from error
