"""What a detector finds before and after its NMS: the input of NMS recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cvpods.modeling.meta_arch.dense_detector import DenseDetector
from cvpods.structures import Instances
from cvpods.utils.errors import ConfigError


class PreAndPostNMS(nn.Module):
    """A detector that returns all candidates above its score threshold, and what NMS leaves.

    No cap per level and none per image.
    """

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        if not isinstance(detector, DenseDetector):
            raise ConfigError(
                "NMS recall works with detectors derived from DenseDetector, not with "
                f"{type(detector).__name__}."
            )
        self.detector = detector

    @property
    def num_classes(self) -> int:
        return self.detector.num_classes

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        """{"before": Instances, "after": Instances} of every input, in its original size."""
        images = self.detector.preprocess_image(batched_inputs)
        predictions, priors = self.detector.network(images)
        found = self.detector.candidates(predictions, priors, images.image_sizes, None)
        return [
            {
                "before": self.detector.postprocess(before, inputs),
                "after": self.detector.postprocess(self.detector.suppress(before), inputs),
            }
            for before, inputs in zip(found, batched_inputs, strict=True)
        ]
