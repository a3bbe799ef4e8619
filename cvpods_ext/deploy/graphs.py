"""Graphs to export: a detector's network, or the whole detector, as functions of tensors alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvpods.modeling.meta_arch import DenseDetector
from cvpods.modeling.meta_arch.candidates import NO_CANDIDATE, Candidates
from cvpods.structures import ImageList
from cvpods.utils.errors import ConfigError
from cvpods_ext.deploy.nms import nms_keep
from cvpods_ext.methods.feature_align.attention import AttentionFPN

# NMS types whose result the graph's operator gives.
NMS_TYPES = ("normal", "cluster")


class NetworkGraph(nn.Module):
    """Graph of backbone, pyramid and head: normalised images -> the head's maps.

    Inputs: input (N, 3, H, W) float32, padded with 0 to the right and at the bottom; detectors with
    attention also take image_sizes (N, 2) int64, (height, width) without the padding.
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
        """Return cls_logits_p3, cls_logits_p4, ..., box_deltas_p3, ..."""
        return [f"{name}_{level}" for name, level in self.outputs]

    def forward(self, input: Tensor, image_sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        maps = self.detector.network(ImageList(input, [] if image_sizes is None else image_sizes))
        levels = self.detector.in_features
        return tuple(maps[name][levels.index(level)].float() for name, level in self.outputs)


class DetectorGraph(nn.Module):
    """Graph of network, decoding and NMS in fixed shapes: normalised images -> detections.

    Inputs: input (N, 3, H, W) and image_sizes (N, 2) as in NetworkGraph.
    Outputs: boxes (N, D, 4) float32 xyxy in pixels of the input, scores (N, D) float32 and labels
    (N, D) int64, best first; D is TEST.DETECTIONS_PER_IMAGE. Rows without a detection hold 0, 0
    and -1.

    Detections are those of DenseDetector.inference: candidates by level, clip, NMS, cap.

    Raises:
        ConfigError: ONNX has no operator for the type of the detector's NMS.
    """

    kind = "detector"
    input_names = ("input", "image_sizes")
    output_names = ("boxes", "scores", "labels")

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        if detector.nms_type not in NMS_TYPES:
            raise ConfigError(
                f"MODEL.NMS_TYPE must be one of {', '.join(NMS_TYPES)} in a graph with "
                f"post-processing; got {detector.nms_type!r}. Export without --with-postprocess: "
                "this project then runs its own NMS on the network's outputs."
            )
        self.detector = detector

    def forward(self, input: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        detector = self.detector
        maps = detector.network(ImageList(input, image_sizes))
        priors = detector.priors(maps["box_deltas"])
        levels = [
            {name: detector.flatten_map(name, m[level]) for name, m in maps.items()}
            for level in range(len(priors))
        ]
        found = detector.best_candidates(levels, priors, detector.topk_candidates)
        found = detector.clip_candidates(found, image_sizes)
        cap = detector.max_detections_per_image
        keep = nms_keep(*found, detector.nms_threshold, detector.num_classes, cap)
        scores = torch.where(keep, found.scores, NO_CANDIDATE)
        return _best(Candidates(found.boxes, scores, found.classes), cap)


def anchors_of(detector: DenseDetector) -> list[int]:
    """Return the number of anchors or points of one location, for each level."""
    cell = torch.zeros(1, 1, 1, 1)
    return [len(level) for level in detector.priors([cell] * len(detector.in_features))]


def _best(found: Candidates, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and labels of the `count` best rows; rows without one hold 0, 0, -1."""
    best = F.pad(found.scores, (0, count), value=NO_CANDIDATE).topk(count)
    real = best.values > NO_CANDIDATE
    rows = best.indices[..., None].expand(-1, -1, 4)
    boxes = F.pad(found.boxes, (0, 0, 0, count)).gather(1, rows)
    labels = F.pad(found.classes, (0, count)).gather(1, best.indices)
    return (
        torch.where(real[..., None], boxes, 0.0),
        torch.where(real, best.values, 0.0),
        torch.where(real, labels, -1),
    )
