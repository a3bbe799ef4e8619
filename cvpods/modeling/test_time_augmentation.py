"""Test-time augmentation: detect at several scales, merge what is found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvpods.modeling.meta_arch.dense_detector import DenseDetector, output_size
from cvpods.modeling.postprocessing import detector_postprocess
from cvpods.structures import ImageList, Instances
from cvpods.utils.errors import ConfigError
from cvpods.utils.sizes import shortest_edge_size


def augmentation_scales(cfg: Any) -> list[tuple[float, float]]:
    """cfg.TEST.AUG's (short edge, cap of the long edge): MIN_SIZES with MAX_SIZE, EXTRA_SIZES.

    Raises:
        ConfigError: there is none, or one is no pair of numbers above 0.
    """
    aug = cfg.TEST.AUG
    scales = [*((size, aug.MAX_SIZE) for size in aug.MIN_SIZES), *aug.EXTRA_SIZES]
    if not scales:
        raise ConfigError("TEST.AUG names no scale: set MIN_SIZES or EXTRA_SIZES.")
    for scale in scales:
        is_pair = isinstance(scale, (list, tuple)) and len(scale) == 2
        if not is_pair or not all(type(n) in (int, float) and n > 0 for n in scale):
            raise ConfigError(
                "TEST.AUG needs MIN_SIZES and MAX_SIZE above 0, and EXTRA_SIZES as pairs ((short "
                f"edge, cap of the long edge), ...) above 0; got {scale!r}."
            )
    return [tuple(scale) for scale in scales]


class TestTimeAugmentation(nn.Module):
    """A detector that looks at every image at several scales, plain and mirrored.

    FreeAnchor's protocol (its authors' release of 2019-10-27): the image as loaded, at the size of
    an ordinary test, is resampled to each scale; each pass gives the candidates of an ordinary test
    before NMS; all of them, in the frame of the last pass, go through one NMS and one cap.
    Differs from cvpods, which augments the original image and merges by soft voting.

    Args:
        detector: its thresholds, caps and NMS are used as they are.
        scales: (short edge, cap of the long edge) of each pass.
        flip: add a mirrored pass for each.
    """

    __test__ = False  # not a test, whatever its name begins with

    def __init__(
        self, detector: DenseDetector, scales: Sequence[tuple[float, float]], flip: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(detector, DenseDetector):
            raise ConfigError(
                f"TEST.AUG works with detectors derived from DenseDetector, not with "
                f"{type(detector).__name__}; set TEST.AUG.ENABLED False."
            )
        self.detector = detector
        self.scales = list(scales)
        self.flip = flip

    @classmethod
    def from_config(cls, cfg: Any, detector: DenseDetector) -> TestTimeAugmentation:
        """Scales and FLIP of cfg.TEST.AUG."""
        return cls(detector, augmentation_scales(cfg), flip=cfg.TEST.AUG.FLIP)

    @property
    def num_classes(self) -> int:
        return self.detector.num_classes

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Inputs and results as those of DenseDetector in evaluation."""
        return [{"instances": self._detect(inputs)} for inputs in batched_inputs]

    def _detect(self, inputs: dict[str, Any]) -> Instances:
        found = [self._candidates(image, flipped) for image, flipped in self._passes(inputs)]
        frame = found[-1].image_size
        merged = Instances.cat([detector_postprocess(one, *frame) for one in found])
        result = self.detector.suppress(merged)[: self.detector.max_detections_per_image]
        return detector_postprocess(result, *output_size(inputs))

    def _passes(self, inputs: dict[str, Any]) -> Iterator[tuple[Tensor, bool]]:
        """The normalised image (C, h, w) at each scale, and whether it is mirrored."""
        image = self.detector.normalize(inputs["image"])
        for short_edge, max_size in self.scales:
            size = shortest_edge_size(*image.shape[1:], short_edge, max_size)
            scaled = F.interpolate(image[None], size, mode="bilinear", align_corners=True)[0]
            yield scaled, False
            if self.flip:
                yield scaled.flip(2), True

    def _candidates(self, image: Tensor, flipped: bool) -> Instances:
        """Candidates of one pass, in pixels of the unmirrored `image`."""
        padded = ImageList.from_tensors([image], self.detector.backbone.size_divisibility)
        predictions, priors = self.detector.network(padded.tensor)
        (found,) = self.detector.candidates(
            predictions, priors, padded.image_sizes, self.detector.topk_candidates
        )
        if flipped:
            boxes = found.pred_boxes.tensor
            width = image.shape[2]
            boxes[:, 0], boxes[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
        return found
