"""Detections before and after NMS, the input of NMS recall."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cvpods.modeling.meta_arch.dense_detector import DenseDetector
from cvpods.structures import Instances
from cvpods.structures.samples import Sample
from cvpods.utils.errors import ConfigError


class PreAndPostNMS(nn.Module):
    """Detector that returns all candidates above its score threshold, and those that NMS keeps.

    Neither levels nor images have a cap.

    Raises:
        ConfigError: the detector is not a DenseDetector.
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
    def forward(self, batched_inputs: Sequence[Sample]) -> list[dict[str, Instances]]:
        """Return {"before": Instances, "after": Instances} of every input, in its original size."""
        images = self.detector.preprocess_image(batched_inputs)
        predictions, priors = self.detector.predict(images)
        found = self.detector.candidates(predictions, priors, images.image_sizes, None)
        return [
            {
                "before": self.detector.postprocess(before, inputs),
                "after": self.detector.postprocess(self.detector.suppress(before), inputs),
            }
            for before, inputs in zip(found, batched_inputs, strict=True)
        ]
