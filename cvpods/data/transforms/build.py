"""From the (name, arguments) pairs of a config to transform generators."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from cvpods.data.registry import TRANSFORMS
from cvpods.utils.errors import ConfigError


def build_transform_gens(
    pipelines: Sequence[Sequence], image_format: str = "BGR", plus_one: bool = False
) -> list:
    """Build the transforms that a pipeline names.

    Args:
        pipelines: (name, keyword arguments) pairs. "...List" names take
            transforms=[(name, arguments), ...]; "Torch_..." names take a torchvision transform.
        image_format, plus_one: channel order, and how boxes are scaled; told to transforms that
            have arguments of these names.

    Raises:
        ConfigError: unknown name, or arguments that do not fit.
    """
    shared = {"image_format": image_format, "plus_one": plus_one}
    return [_build(step, shared) for step in pipelines]


def _build(step: Sequence, shared: Mapping[str, Any]) -> Any:
    if isinstance(step, (str, Mapping)) or len(step) != 2 or not isinstance(step[0], str):
        raise ConfigError(f"A step of INPUT.AUG is a (name, arguments) pair; got {step!r}.")
    name, arguments = step
    if name.startswith("Torch_"):
        from cvpods.data.transforms.torchvision_bridge import TorchTransformGen

        return TorchTransformGen(arguments)
    cls = TRANSFORMS.get(name)
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{name} takes a dict of arguments, got {arguments!r}.")
    arguments = dict(arguments)
    if "transforms" in arguments:
        arguments["transforms"] = build_transform_gens(arguments["transforms"], **shared)
    for key in shared.keys() & inspect.signature(cls.__init__).parameters.keys():
        arguments.setdefault(key, shared[key])
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}{tuple(step)[1:]} cannot be built: {error}") from error
