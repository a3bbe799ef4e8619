"""Network of a dense detector: the component that computes the head's maps from images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from cvpods.modeling.backbone import Backbone
from cvpods.structures import ImageList

# Outputs of the head by name: a map (N, A * channels, H_l, W_l) for each level.
Maps = dict[str, list[Tensor]]


class Network(Protocol):
    """Function from normalised images to the head's maps."""

    @property
    def size_divisibility(self) -> int:
        """Return the number that height and width of images are multiples of; 0 for any size."""
        ...

    def __call__(self, images: ImageList) -> Maps: ...


class BackboneAndHead:
    """Network that runs a backbone, and a head on some of its maps.

    It is not a module: the detector registers backbone and head, so that the keys of state dicts
    begin with "backbone." and "head.".

    Args:
        in_features: names of the maps that the head reads, finest first.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, in_features: Sequence[str]) -> None:
        self.backbone = backbone
        self.head = head
        self.in_features = list(in_features)

    @property
    def size_divisibility(self) -> int:
        return self.backbone.size_divisibility

    def __call__(self, images: ImageList) -> Maps:
        """Return the head's outputs by name, a map (N, A * channels, H_l, W_l) for each level."""
        maps = self.backbone.maps_of(images)
        return self.head([maps[name] for name in self.in_features])
