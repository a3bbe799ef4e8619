"""What is exported: a detector's network, or all of the detector, as functions of tensors alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvpods.modeling.meta_arch import DenseDetector
from cvpods.structures import ImageList
from cvpods.utils.errors import ConfigError
from cvpods_ext.deploy.nms import NO_CANDIDATE, nms_keep
from cvpods_ext.methods.feature_align.attention import AttentionFPN

# NMS types whose result the graph's operator gives.
NMS_TYPES = ("normal", "cluster")


class NetworkGraph(nn.Module):
    """Normalised images -> the head's maps: backbone, pyramid and head, nothing else.

    Inputs: input (N, 3, H, W) float32, padded with 0 to the right and at the bottom; of detectors
    with attention also image_sizes (N, 2) int64, (height, width) without the padding.
    Outputs: for each output of the head, then for each level, (N, A * channels, H_l, W_l) float32.
    """

    kind = "network"

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        self.detector = detector
        names = ["cls_logits", "box_deltas"]
        names += [name for name in detector.output_channels if name not in names]
        self.outputs = [(name, level) for name in names for level in detector.in_features]

    @property
    def input_names(self) -> list[str]:
        attends = isinstance(self.detector.backbone, AttentionFPN)
        return ["input", "image_sizes"] if attends else ["input"]

    @property
    def output_names(self) -> list[str]:
        """cls_logits_p3, cls_logits_p4, ..., box_deltas_p3, ..."""
        return [f"{name}_{level}" for name, level in self.outputs]

    def forward(self, input: Tensor, image_sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        maps = self.detector.maps(ImageList(input, [] if image_sizes is None else image_sizes))
        levels = self.detector.in_features
        return tuple(maps[name][levels.index(level)].float() for name, level in self.outputs)


class DetectorGraph(nn.Module):
    """Normalised images -> detections: the network, decoding and NMS, in fixed shapes.

    Inputs: input (N, 3, H, W) and image_sizes (N, 2) as of NetworkGraph.
    Outputs: boxes (N, D, 4) float32 xyxy in pixels of the input, scores (N, D) float32 and labels
    (N, D) int64, best first; D is TEST.DETECTIONS_PER_IMAGE. Rows without a detection hold 0, 0
    and -1.

    Detections are those of DenseDetector.inference: candidates by level, clip, NMS, cap.

    Raises:
        ConfigError: the detector's NMS is of a type that ONNX has no operator for.
    """

    kind = "detector"
    input_names = ("input", "image_sizes")
    output_names = ("boxes", "scores", "labels")

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        if detector.nms_type not in NMS_TYPES:
            raise ConfigError(
                f"A graph with post-processing knows the NMS types {', '.join(NMS_TYPES)}, not "
                f"{detector.nms_type!r}. Export without --with-postprocess: this project then runs "
                "its own NMS on the network's outputs."
            )
        self.detector = detector

    def forward(self, input: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        detector = self.detector
        maps = detector.maps(ImageList(input, image_sizes))
        priors = detector.priors(maps["box_deltas"])
        found = []
        for level, points in enumerate(priors):
            outputs = {name: detector.flatten_map(name, m[level]) for name, m in maps.items()}
            found.append(level_candidates(detector, outputs, points, level))
        boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        boxes = _clip(detector, boxes, image_sizes)
        has_area = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        scores = torch.where(has_area, scores, NO_CANDIDATE)
        cap = detector.max_detections_per_image
        keep = nms_keep(boxes, scores, labels, detector.nms_threshold, detector.num_classes, cap)
        return _best(boxes, torch.where(keep, scores, NO_CANDIDATE), labels, cap)


def anchors_of(detector: DenseDetector) -> list[int]:
    """Anchors or points of one location, on each level."""
    cell = torch.zeros(1, 1, 1, 1)
    return [len(level) for level in detector.priors([cell] * len(detector.in_features))]


def level_candidates(
    detector: DenseDetector, outputs: dict[str, Tensor], priors: Tensor, level: int
) -> tuple[Tensor, Tensor, Tensor]:
    """DenseDetector's candidates of one level for all images: those above the threshold, first.

    Args:
        outputs: (N, R_l, channels) float32.
        priors: (R_l, 4) or (R_l, 2).

    Returns:
        boxes (N, J, 4), scores (N, J) and labels (N, J) of the J best; fewer pass the threshold
        where scores are NO_CANDIDATE.
    """
    scores = detector.candidate_scores(outputs)
    passed = scores.threshold > detector.score_threshold
    ranking = torch.where(passed, scores.ranking, NO_CANDIDATE).flatten(1)
    cap: Any = detector.level_cap(detector.topk_candidates, priors.shape[0])
    best = ranking.topk(torch.sym_min(cap, ranking.shape[1]))
    location = best.indices // detector.num_classes
    labels = best.indices % detector.num_classes
    deltas = outputs["box_deltas"].gather(1, location[..., None].expand(-1, -1, 4))
    boxes = detector.decode(deltas, priors[location], level)
    final = scores.final.flatten(1).gather(1, best.indices)
    return boxes, torch.where(best.values > NO_CANDIDATE, final, NO_CANDIDATE), labels


def _clip(detector: DenseDetector, boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Boxes (N, J, 4) as DenseDetector.candidates clips them to images (N, 2) (height, width)."""
    if not detector.clip_before_nms:
        return boxes
    height, width = image_sizes[:, None].unbind(-1)  # (N, 1) each
    return detector.pixels.clip(boxes, height, width)


def _best(
    boxes: Tensor, scores: Tensor, labels: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best rows, filled up where there are fewer candidates (J) than that."""
    scores = F.pad(scores, (0, count), value=NO_CANDIDATE)
    best = scores.topk(count)
    real = best.values > NO_CANDIDATE
    boxes = F.pad(boxes, (0, 0, 0, count)).gather(1, best.indices[..., None].expand(-1, -1, 4))
    labels = F.pad(labels, (0, count)).gather(1, best.indices)
    return (
        torch.where(real[..., None], boxes, 0.0),
        torch.where(real, best.values, 0.0),
        torch.where(real, labels, -1),
    )
