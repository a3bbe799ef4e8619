"""DenseDetector: everything that one-stage detectors do alike, written once.

A detector adds its head, its priors, its losses and how its outputs become scores and boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cvpods.layers.nms import NMS_TYPES, generalized_batched_nms
from cvpods.modeling.backbone import Backbone
from cvpods.modeling.meta_arch.scores import Scores
from cvpods.modeling.meta_arch.unassigned import UnassignedObjects
from cvpods.modeling.postprocessing import detector_postprocess
from cvpods.structures import CONTINUOUS, Boxes, ImageList, Instances, PixelConvention
from cvpods.structures.boxes import check_finite
from cvpods.utils.errors import ConfigError, DataError


class DenseDetector(nn.Module):
    """Backbone -> head -> losses (training) or boxes, NMS, original image size (evaluation).

    Letters: N images, L levels, R locations or anchors of all levels, K classes.

    Args:
        backbone: gives the feature maps named in `in_features`.
        head: feature maps -> {output name: one map per level}.
        in_features: names of the pyramid levels that the head reads, finest first.
        num_classes: K.
        pixel_mean, pixel_std: per channel, in the order of the input images.
        score_threshold: candidates at or below it are dropped.
        topk_candidates: candidates kept per level before NMS.
        nms_threshold, nms_type: see cvpods.layers.generalized_batched_nms.
        max_detections: boxes kept per image.
        pixels: convention by which boxes are clipped and detections scaled. The data pipeline
            scales the ground truth by the same one.
    """

    # Channels of one location in each output of the head; None stands for K.
    output_channels: dict[str, int | None] = {"cls_logits": None, "box_deltas": 4}
    # Clip boxes to the image before NMS; AutoAssign's authors do so after it alone.
    clip_before_nms = True

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        in_features: Sequence[str],
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        score_threshold: float = 0.05,
        topk_candidates: int = 1000,
        nms_threshold: float = 0.6,
        nms_type: str = "normal",
        max_detections: int = 100,
        pixels: PixelConvention = CONTINUOUS,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.in_features = list(in_features)
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.topk_candidates = topk_candidates
        self.nms_threshold = nms_threshold
        self.nms_type = nms_type
        self.max_detections_per_image = max_detections
        self.pixels = pixels
        if nms_type not in NMS_TYPES:
            raise ConfigError(f"MODEL.NMS_TYPE must be one of {NMS_TYPES}, got {nms_type!r}.")
        if len(pixel_mean) != len(pixel_std):
            raise ConfigError(
                f"PIXEL_MEAN {pixel_mean} and PIXEL_STD {pixel_std} differ in length."
            )
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (pixel_mean, pixel_std))
        self.register_buffer("pixel_mean", mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", std.view(-1, 1, 1), persistent=False)
        self.unassigned = UnassignedObjects()

    # -- what a detector adds ------------------------------------------------------------------

    def priors(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Anchors (R_l, 4) or points (R_l, 2) of every level, of maps (N, C, H_l, W_l)."""
        raise NotImplementedError

    def losses(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Scalar losses from predictions (N, R, channels), in float32."""
        raise NotImplementedError

    def check_training_size(self, height: int, width: int) -> None:
        """Called before training with the size of the largest image, where that is known.

        Raises:
            ConfigError: the method cannot work on images of at most this size.
        """

    def decode(self, box_deltas: Tensor, priors: Tensor, level: int) -> Tensor:
        """Boxes (..., 4) of chosen locations of a level, deltas (..., 4) and their priors."""
        raise NotImplementedError

    def candidate_scores(self, outputs: dict[str, Tensor]) -> Scores:
        """Of one level, outputs (..., R_l, channels): scores (..., R_l, K)."""
        scores = outputs["cls_logits"].sigmoid()
        return Scores(scores, scores, scores)

    # -- what all detectors share --------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Losses in training mode, detections in evaluation mode.

        Args:
            batched_inputs: dicts with "image" (C, H, W) uint8 or float in [0, 255] and, for
                training, "instances" with gt_boxes and gt_classes; "height" and "width" are the
                size that detections are scaled to.

        Returns:
            {loss name: scalar}, or [{"instances": Instances(pred_boxes, scores, pred_classes)}].
        """
        images = self.preprocess_image(batched_inputs)
        predictions, priors = self.network(images)
        if self.training:
            with torch.autocast(self.device.type, enabled=False):
                losses = self.losses(predictions, priors, self.targets(batched_inputs))
            self.unassigned.end_pass()
            return losses
        results = self.inference(predictions, priors, images.image_sizes)
        return [
            {"instances": self.postprocess(result, inputs)}
            for result, inputs in zip(results, batched_inputs, strict=True)
        ]

    def network(self, images: ImageList) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Normalised images -> outputs (N, R, channels) in float32, and priors."""
        outputs = self.maps(images)
        predictions = {name: self._flatten(name, maps) for name, maps in outputs.items()}
        return predictions, self.priors(outputs["box_deltas"])

    def maps(self, images: ImageList) -> dict[str, list[Tensor]]:
        """The head's outputs by name, a map (N, A * channels, H_l, W_l) for each level.

        A graph of deployment holds what this computes, and takes its place.
        """
        levels = self.features(images)
        return self.head([levels[name] for name in self.in_features])

    def features(self, images: ImageList) -> dict[str, Tensor]:
        """The backbone's maps (N, C, H_l, W_l) by name."""
        return self.backbone(images.tensor)

    def postprocess(self, result: Instances, inputs: dict[str, Any]) -> Instances:
        """Detections in pixels of the resized image -> in those of the size that `inputs` says."""
        return detector_postprocess(result, *output_size(inputs), pixels=self.pixels)

    def preprocess_image(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """Normalised images, padded to one size with zeros."""
        images = [self.normalize(inputs["image"]) for inputs in batched_inputs]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def normalize(self, image: Tensor) -> Tensor:
        """Move an image (C, H, W) to the device as it is, and normalise it there."""
        return (image.to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std

    def targets(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Instances]:
        """The ground truth of each image, on the device."""
        key = "instances" if "instances" in batched_inputs[0] else "targets"
        if key not in batched_inputs[0]:
            raise DataError("Training needs 'instances' in every input; evaluate with .eval().")
        for inputs in batched_inputs:
            self._check_classes(inputs[key].gt_classes)
        return [inputs[key].to(self.device) for inputs in batched_inputs]

    def _check_classes(self, classes: Tensor) -> None:
        """Where that needs no wait for the device: losses would read other classes' numbers."""
        if classes.device.type != "cpu" or len(classes) == 0:
            return
        low, high = (int(value) for value in classes.aminmax())
        if low < 0 or high >= self.num_classes:
            raise DataError(
                f"gt_classes must lie in [0, {self.num_classes}), the classes of the model; got "
                f"{low} to {high}."
            )

    def _flatten(self, name: str, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, A * C, H_l, W_l) of all levels -> (N, R, C) in float32."""
        return torch.cat([self.flatten_map(name, m) for m in maps], dim=1)

    def flatten_map(self, name: str, level: Tensor) -> Tensor:
        """One level's map (N, A * C, H_l, W_l) of the output `name` -> (N, R_l, C) in float32."""
        return permute_to_N_HWA_K(level, self.output_channels[name] or self.num_classes).float()

    def inference(
        self,
        predictions: dict[str, Tensor],
        priors: list[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Detections of every image, in pixels of the padded input.

        They may reach beyond the image unless clip_before_nms.
        """
        found = self.candidates(predictions, priors, image_sizes, self.topk_candidates)
        return [self.suppress(one)[: self.max_detections_per_image] for one in found]

    @torch.no_grad()
    def candidates(
        self,
        predictions: dict[str, Tensor],
        priors: list[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        per_level: int | None,
    ) -> list[Instances]:
        """What passes the score threshold in every image, before NMS.

        Args:
            per_level: cap on the candidates of a level; None for all.
        """
        sizes = [len(level) for level in priors]
        levels = {name: values.split(sizes, dim=1) for name, values in predictions.items()}
        results = []
        with torch.autocast(self.device.type, enabled=False):
            for i, image_size in enumerate(image_sizes):
                found = [
                    self._level_candidates({n: v[k][i] for n, v in levels.items()}, p, k, per_level)
                    for k, p in enumerate(priors)
                ]
                boxes, scores, classes = (torch.cat(parts) for parts in zip(*found, strict=True))
                boxes = Boxes(boxes)
                if self.clip_before_nms:
                    check_finite(boxes.tensor)
                    boxes = Boxes(self.pixels.clip(boxes.tensor, *image_size))
                one = Instances(
                    tuple(image_size), pred_boxes=boxes, scores=scores, pred_classes=classes
                )
                # Clipped, what lies in the padding is empty and takes no place among the others.
                results.append(one[boxes.nonempty()])
        return results

    def suppress(self, candidates: Instances) -> Instances:
        """NMS as configured, best first; no cap."""
        # Soft NMS lowers scores in place.
        boxes, scores = candidates.pred_boxes.tensor, candidates.scores.clone()
        keep = generalized_batched_nms(
            boxes, scores, candidates.pred_classes, self.nms_threshold, nms_type=self.nms_type
        )
        kept = candidates[keep]
        kept.scores = scores[keep]
        return kept

    def level_cap(self, cap: int | None, locations: int) -> int | None:
        """What becomes of the cap on candidates on a level of so many locations."""
        return cap

    def _level_candidates(
        self, outputs: dict[str, Tensor], priors: Tensor, level: int, cap: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (J, 4), scores (J,) and classes (J,) of the best candidates of one level.

        Differs from cvpods: the threshold comes before the cap, which is the same on every level,
        not the number of locations where that is less.
        """
        cap = self.level_cap(cap, len(priors))
        scores = self.candidate_scores(outputs)
        passed = (scores.threshold > self.score_threshold).flatten().nonzero().flatten()
        count = len(passed) if cap is None else min(cap, len(passed))
        best = passed[scores.ranking.flatten()[passed].topk(count).indices]
        location, classes = best // self.num_classes, best % self.num_classes
        boxes = self.decode(outputs["box_deltas"][location], priors[location], level)
        return boxes, scores.final.flatten()[best], classes


def permute_to_N_HWA_K(tensor: Tensor, K: int) -> Tensor:  # noqa: N802, N803 - cvpods' name
    """(N, A * K, H, W) -> (N, H * W * A, K)."""
    if tensor.dim() != 4:
        raise ValueError(f"Expected (N, A * K, H, W), got {tuple(tensor.shape)}.")
    n, channels, height, width = tensor.shape
    return tensor.permute(0, 2, 3, 1).reshape(n, height * width * (channels // K), K)


def output_size(inputs: dict[str, Any]) -> tuple[int, int]:
    """(height, width) that an input's detections are scaled to: as it says, else its own."""
    height, width = inputs["image"].shape[-2:]
    return inputs.get("height", height), inputs.get("width", width)
