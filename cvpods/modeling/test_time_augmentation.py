"""Test-time augmentation, which detects at several scales and merges the detections."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvpods.layers.box_voting import box_voting
from cvpods.modeling.meta_arch.dense_detector import DenseDetector
from cvpods.structures import Boxes, ImageList, Instances
from cvpods.structures.samples import Detection, Sample
from cvpods.utils.errors import ConfigError
from cvpods.utils.sizes import shortest_edge_size

MERGES = ("soft-vote", "vote", "nms")


class ScaleRange(NamedTuple):
    """Size of a pass, and the range of sizes of the detections that it keeps.

    short_edge, max_size: pixels; the short edge is scaled to short_edge, or less if the long edge
        would exceed max_size.
    low, high: detections with low < sqrt(area) < high stay, in pixels of this pass.
    """

    short_edge: float
    max_size: float
    low: float = 0.0
    high: float = math.inf


class TestTimeAugmentation(nn.Module):
    """Detector that looks at every image at several scales, plain and mirrored.

    1. Each pass detects at one scale. With "nms" it yields the candidates before NMS, with votes
       those that the detector's own NMS and cap keep. Detections outside the scale's range of sizes
       are dropped.
    2. Mirrored boxes are mirrored back; all boxes are scaled to the original image.
    3. They are merged class by class: by one NMS ("nms"), by box_voting ("vote"), or by box_voting
       that keeps members with decayed scores ("soft-vote").

    Args:
        detector: its thresholds, caps and NMS stay as they are.
        scales: of the passes, in order.
        flip: add a mirrored pass to each pass.
        from_original: inputs hold the original image; each pass resizes it as an ordinary test
            would. Otherwise they hold an image of the size of an ordinary test, which is
            normalised and then resampled (FreeAnchor's release of 10/2019).
        merge: one of MERGES.
        vote_threshold: IoU of box_voting.
        max_detections: boxes kept per image; None for the detector's cap.

    Images of one size share a pass, so several inputs at once are faster; results are the same.

    The releases of FreeAnchor and, without votes, of ATSS use "nms". ATSS's code can also run one
    more NMS over the results of each pass's own NMS; this class does not.

    Raises:
        ConfigError: the detector is not a DenseDetector.
    """

    __test__ = False  # keep pytest from collecting this class by its name

    def __init__(
        self,
        detector: DenseDetector,
        scales: Sequence[ScaleRange],
        *,
        flip: bool = False,
        from_original: bool = False,
        merge: str = "nms",
        vote_threshold: float = 0.65,
        max_detections: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(detector, DenseDetector):
            raise ConfigError(
                f"TEST.AUG works with detectors derived from DenseDetector, not with "
                f"{type(detector).__name__}; set TEST.AUG.ENABLED False."
            )
        self.detector = detector
        self.scales = [ScaleRange(*scale) for scale in scales]
        self.flip = flip
        self.from_original = from_original
        self.merge = merge
        self.vote_threshold = vote_threshold
        if max_detections is None:
            max_detections = detector.max_detections_per_image
        self.max_detections = max_detections

    @classmethod
    def from_config(cls, cfg: Any, detector: DenseDetector) -> TestTimeAugmentation:
        """Build it from cfg.TEST.AUG; see augmentation_arguments for its errors."""
        return cls(detector, **augmentation_arguments(cfg))

    @property
    def num_classes(self) -> int:
        return self.detector.num_classes

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[Sample]) -> list[Detection]:
        """Return the merged detections of each input, as DenseDetector does in evaluation."""
        images = [self._load(inputs["image"]) for inputs in batched_inputs]
        found: list[list[Instances]] = [[] for _ in images]
        for scale in self.scales:
            views = [self._view(image, scale) for image in images]
            for members in groups_of_one_size(views):
                for detections in self._passes([views[i] for i in members], scale):
                    for i, one in zip(members, detections, strict=True):
                        found[i].append(self.detector.postprocess(one, batched_inputs[i]))
        return [{"instances": self._merge(Instances.cat(parts))} for parts in found]

    def _load(self, image: Tensor) -> Tensor:
        """Return the image (C, H, W) on the device that the passes start from."""
        if self.from_original:
            return image.to(self.detector.device)
        return self.detector.normalize(image)

    def _view(self, image: Tensor, scale: ScaleRange) -> Tensor:
        """Return the normalised image (C, h, w) of a pass."""
        height, width = image.shape[1:]
        size = shortest_edge_size(height, width, scale.short_edge, scale.max_size)
        if self.from_original:
            from torchvision.transforms.v2.functional import resize

            return self.detector.normalize(resize(image, list(size)))
        return F.interpolate(image[None], size, mode="bilinear", align_corners=True)[0]

    def _passes(self, views: list[Tensor], scale: ScaleRange) -> Iterator[list[Instances]]:
        """Yield detections in images (C, h, w) of one size, then in mirrored ones, unmirrored."""
        yield [_within(one, scale) for one in self._detect(views)]
        if self.flip:
            mirrored = self._detect([view.flip(2) for view in views])
            yield [_within(_mirror(one), scale) for one in mirrored]

    def _detect(self, views: list[Tensor]) -> list[Instances]:
        detector = self.detector
        images = ImageList.from_tensors(views, detector.network.size_divisibility)
        predictions, priors = detector.predict(images)
        if self.merge == "nms":
            cap = detector.topk_candidates
            found = detector.candidates(predictions, priors, images.image_sizes, cap)
        else:
            found = detector.inference(predictions, priors, images.image_sizes)
        for one in found:
            one.pred_boxes.clip(one.image_size)  # some detectors only clip after NMS
        return found

    def _merge(self, found: Instances) -> Instances:
        if self.merge == "nms":
            return self.detector.suppress(found)[: self.max_detections]
        boxes, scores, classes = box_voting(
            found.pred_boxes.tensor,
            found.scores,
            found.pred_classes,
            self.vote_threshold,
            soft=self.merge == "soft-vote",
        )
        voted = Instances(
            found.image_size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes
        )
        return voted[: self.max_detections]


def groups_of_one_size(images: Sequence[Tensor]) -> list[list[int]]:
    """Return the indices of the images of each size (..., H, W), by first appearance of sizes."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(index)
    return list(groups.values())


def _within(found: Instances, scale: ScaleRange) -> Instances:
    area = found.pred_boxes.area()
    return found[(area > scale.low**2) & (area < scale.high**2)]


def _mirror(found: Instances) -> Instances:
    left, top, right, bottom = found.pred_boxes.tensor.unbind(1)
    width = found.image_size[1]
    found.pred_boxes = Boxes(torch.stack([width - right, top, width - left, bottom], dim=1))
    return found


def augmentation_arguments(cfg: Any) -> dict[str, Any]:
    """Return TestTimeAugmentation's arguments, read from cfg.TEST.AUG.

    Its scales are MIN_SIZES with MAX_SIZE, then EXTRA_SIZES; with SCALE_FILTER, SCALE_RANGES has a
    range for each of them.

    Raises:
        ConfigError: no scale is given, a value is out of range, or ranges and scales differ in
            number.
    """
    aug = cfg.TEST.AUG
    pairs = [*((size, aug.MAX_SIZE) for size in aug.MIN_SIZES), *aug.EXTRA_SIZES]
    if not pairs:
        raise ConfigError("TEST.AUG names no scale: set MIN_SIZES or EXTRA_SIZES.")
    for pair in pairs:
        if not _is_pair(pair) or min(pair) <= 0:
            raise ConfigError(
                "TEST.AUG must have MIN_SIZES and MAX_SIZE above 0, and EXTRA_SIZES as pairs "
                f"((short edge, cap of the long edge), ...) above 0; got {pair!r}."
            )
    ranges = aug.SCALE_RANGES if aug.SCALE_FILTER else [(0.0, math.inf)] * len(pairs)
    if len(ranges) != len(pairs) or not all(_is_pair(r) and 0 <= r[0] < r[1] for r in ranges):
        raise ConfigError(
            "TEST.AUG.SCALE_FILTER needs SCALE_RANGES with a pair (low, high) for each of the "
            f"{len(pairs)} scales, 0 <= low < high; got {ranges!r}."
        )
    if aug.MERGE not in MERGES:
        raise ConfigError(f"TEST.AUG.MERGE must be one of {MERGES}; got {aug.MERGE!r}.")
    if not _is_number(aug.VOTE_THRESH) or not 0 < aug.VOTE_THRESH <= 1:
        raise ConfigError(f"TEST.AUG.VOTE_THRESH must lie in (0, 1]; got {aug.VOTE_THRESH!r}.")
    most = aug.DETECTIONS_PER_IMAGE
    if most is not None and (type(most) is not int or most < 1):
        raise ConfigError(
            f"TEST.AUG.DETECTIONS_PER_IMAGE must be None or an integer above 0; got {most!r}."
        )
    return {
        "scales": [ScaleRange(*pair, *bounds) for pair, bounds in zip(pairs, ranges, strict=True)],
        "flip": aug.FLIP,
        "from_original": aug.FROM_ORIGINAL,
        "merge": aug.MERGE,
        "vote_threshold": aug.VOTE_THRESH,
        "max_detections": most,
    }


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(_is_number(number) for number in value)
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
