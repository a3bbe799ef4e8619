"""DenseDetector: the parts that all one-stage detectors share.

A detector adds its head, its priors, its losses and how its outputs become scores and boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cvpods.layers.nms import NMS_TYPES, generalized_batched_nms
from cvpods.modeling.backbone import Backbone
from cvpods.modeling.meta_arch.candidates import NO_CANDIDATE, Candidates, best_entries
from cvpods.modeling.meta_arch.network import BackboneAndHead, Network
from cvpods.modeling.meta_arch.scores import Scores
from cvpods.modeling.meta_arch.unassigned import UnassignedObjects
from cvpods.modeling.postprocessing import detector_postprocess
from cvpods.structures import CONTINUOUS, Boxes, ImageList, Instances, PixelConvention, geometry
from cvpods.structures.boxes import check_finite
from cvpods.structures.samples import Detection, Sample
from cvpods.utils.errors import ConfigError, DataError


class DenseDetector(nn.Module):
    """Network -> losses (training), or boxes, NMS and the original image size (evaluation).

    Letters: N images, L levels, R locations or anchors of all levels, K classes. `network` is the
    component that computes the head's maps; use_network() replaces it.

    Args:
        backbone: supplies the feature maps named in `in_features`.
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

    Raises:
        ConfigError: nms_type is unknown, or pixel_mean and pixel_std differ in length.
    """

    # Channels of one location in each output of the head; None stands for K.
    output_channels: dict[str, int | None] = {"cls_logits": None, "box_deltas": 4}
    # Clip boxes to the image before NMS; AutoAssign's authors clip only after it.
    clip_before_nms = True
    # Images of all sizes get one size and may share a batch; true for graphs of fixed shape.
    one_size = False
    pixel_mean: Tensor
    pixel_std: Tensor

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
        if nms_type not in NMS_TYPES:
            raise ConfigError(f"MODEL.NMS_TYPE must be one of {NMS_TYPES}; got {nms_type!r}.")
        if len(pixel_mean) != len(pixel_std):
            raise ConfigError(
                f"PIXEL_MEAN {pixel_mean} and PIXEL_STD {pixel_std} differ in length."
            )
        self.backbone = backbone
        self.head = head
        self._network: Network | None = None
        self.in_features = list(in_features)
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.topk_candidates = topk_candidates
        self.nms_threshold = nms_threshold
        self.nms_type = nms_type
        self.max_detections_per_image = max_detections
        self.pixels = pixels
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (pixel_mean, pixel_std))
        self.register_buffer("pixel_mean", mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", std.view(-1, 1, 1), persistent=False)
        self.unassigned = UnassignedObjects()

    # -- what a detector adds ------------------------------------------------------------------

    def priors(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the anchors (R_l, 4) or points (R_l, 2) of each map (N, C, H_l, W_l)."""
        raise NotImplementedError

    def losses(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Return scalar losses, given predictions (N, R, channels) in float32."""
        raise NotImplementedError

    def check_training_size(self, height: int, width: int) -> None:
        """Check, before training, the size of the largest image if it is known.

        Raises:
            ConfigError: the method cannot work on images of at most this size.
        """

    def decode(self, box_deltas: Tensor, priors: Tensor, level: int) -> Tensor:
        """Return the boxes (..., 4) of locations of one level, given deltas (..., 4) and priors."""
        raise NotImplementedError

    def candidate_scores(self, outputs: dict[str, Tensor]) -> Scores:
        """Return the scores (..., R_l, K) of one level, given its outputs (..., R_l, channels)."""
        scores = outputs["cls_logits"].sigmoid()
        return Scores(scores, scores, scores)

    def level_cap(self, cap: int | None, locations: int) -> int | None:
        """Return the candidate cap for a level with `locations` locations; None for no cap."""
        return cap

    # -- what all detectors share --------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def network(self) -> Network:
        """Component that computes the head's maps: backbone and head, or what replaced them."""
        return self._network or BackboneAndHead(self.backbone, self.head, self.in_features)

    def use_network(self, network: Network) -> None:
        """Let `network` take the place of backbone and head, which the detector then drops."""
        self._network = network
        del self.backbone, self.head

    def forward(self, batched_inputs: Sequence[Sample]) -> dict[str, Tensor] | list[Detection]:
        """Return losses {name: scalar} in training mode, and detections in evaluation mode.

        Raises:
            DataError: training without instances, or classes outside [0, K).
        """
        images = self.preprocess_image(batched_inputs)
        predictions, priors = self.predict(images)
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

    def predict(self, images: ImageList) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the outputs (N, R, channels) in float32 for normalised images, and the priors."""
        maps = self.network(images)
        predictions = {
            name: torch.cat([self.flatten_map(name, level) for level in levels], dim=1)
            for name, levels in maps.items()
        }
        return predictions, self.priors(maps["box_deltas"])

    def flatten_map(self, name: str, level: Tensor) -> Tensor:
        """Return one map (N, A * C, H_l, W_l) of the output `name` as (N, R_l, C) in float32."""
        return permute_to_N_HWA_K(level, self.output_channels[name] or self.num_classes).float()

    def postprocess(self, result: Instances, inputs: Sample) -> Instances:
        """Return detections in pixels of the resized image, scaled to the size that inputs name."""
        return detector_postprocess(result, *output_size(inputs), pixels=self.pixels)

    def preprocess_image(self, batched_inputs: Sequence[Sample]) -> ImageList:
        """Return the normalised images, padded to one size with zeros."""
        images = [self.normalize(inputs["image"]) for inputs in batched_inputs]
        return ImageList.from_tensors(images, self.network.size_divisibility)

    def normalize(self, image: Tensor) -> Tensor:
        """Return an image (C, H, W), normalised on the device, where it arrives as it is."""
        return (image.to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std

    def targets(self, batched_inputs: Sequence[Sample]) -> list[Instances]:
        """Return the ground truth of each image, on the device.

        Raises:
            DataError: it is missing, or has classes outside [0, K).
        """
        found = []
        for inputs in batched_inputs:
            target = inputs.get("instances", inputs.get("targets"))
            if target is None:
                raise DataError("Training needs 'instances' in every input; evaluate with .eval().")
            self._check_classes(target.gt_classes)
            found.append(target.to(self.device))
        return found

    def _check_classes(self, classes: Tensor) -> None:
        """Check classes on the CPU; on a GPU, the check would wait for the device."""
        if classes.device.type != "cpu" or len(classes) == 0:
            return
        low, high = (int(value) for value in classes.aminmax())
        if low < 0 or high >= self.num_classes:
            raise DataError(
                f"gt_classes must lie in [0, {self.num_classes}), the classes of the model; got "
                f"{low} to {high}."
            )

    # -- from outputs to detections ------------------------------------------------------------

    def inference(
        self,
        predictions: dict[str, Tensor],
        priors: list[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Return the detections of every image, in pixels of the padded input.

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
        """Return the candidates of every image before NMS: all above the score threshold.

        Args:
            per_level: cap on the candidates of a level; None for no cap.

        Raises:
            NonFiniteBoxes: a box to clip is infinite or NaN.
        """
        counts = [len(level) for level in priors]
        split = {name: values.split(counts, dim=1) for name, values in predictions.items()}
        levels = [{name: parts[k] for name, parts in split.items()} for k in range(len(priors))]
        with torch.autocast(self.device.type, enabled=False):
            found = self.best_candidates(levels, priors, per_level)
            if self.clip_before_nms:
                check_finite(found.boxes[found.scores > NO_CANDIDATE])
            found = self.clip_candidates(found, torch.tensor(image_sizes, device=self.device))
        results = []
        for (height, width), boxes, scores, classes in zip(image_sizes, *found, strict=True):
            real = scores > NO_CANDIDATE
            one = Instances((height, width), pred_boxes=Boxes(boxes[real]))
            one.scores, one.pred_classes = scores[real], classes[real]
            results.append(one)
        return results

    def best_candidates(
        self, levels: Sequence[dict[str, Tensor]], priors: Sequence[Tensor], cap: int | None
    ) -> Candidates:
        """Return the best candidates of all levels in fixed shapes.

        Differs from cvpods: the threshold comes before the cap, which is the same on every level,
        not the number of locations where that is less.

        Args:
            levels: outputs (N, R_l, channels) of each level, float32.
            priors: (R_l, 4) or (R_l, 2) of each level.
            cap: candidates of one level; None for all above the score threshold.
        """
        found = []
        for level, (outputs, level_priors) in enumerate(zip(levels, priors, strict=True)):
            level_cap = self.level_cap(cap, level_priors.shape[0])
            scores = self.candidate_scores(outputs)
            best, final = best_entries(scores, self.score_threshold, level_cap)
            location, classes = best // self.num_classes, best % self.num_classes
            deltas = outputs["box_deltas"].gather(1, location[..., None].expand(-1, -1, 4))
            boxes = self.decode(deltas, level_priors[location], level)
            found.append(Candidates(boxes, final, classes))
        return Candidates(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))

    def clip_candidates(self, found: Candidates, image_sizes: Tensor) -> Candidates:
        """Return the candidates, clipped if clip_before_nms, with empty boxes marked NO_CANDIDATE.

        Boxes that lie in the padding become empty once clipped, and must not take the place of
        others.

        Args:
            image_sizes: (N, 2) height and width.
        """
        boxes = found.boxes
        if self.clip_before_nms:
            height, width = image_sizes[:, None].unbind(-1)  # (N, 1) each
            boxes = self.pixels.clip(boxes, height, width)
        scores = torch.where(geometry.has_area(boxes), found.scores, NO_CANDIDATE)
        return Candidates(boxes, scores, found.classes)

    def suppress(self, candidates: Instances) -> Instances:
        """Return what the configured NMS leaves of the candidates, best first, without a cap."""
        # Soft NMS lowers scores in place.
        boxes, scores = candidates.pred_boxes.tensor, candidates.scores.clone()
        keep = generalized_batched_nms(
            boxes, scores, candidates.pred_classes, self.nms_threshold, nms_type=self.nms_type
        )
        kept = candidates[keep]
        kept.scores = scores[keep]
        return kept


def permute_to_N_HWA_K(tensor: Tensor, K: int) -> Tensor:  # noqa: N802, N803 - cvpods' name
    """Return a map (N, A * K, H, W) as (N, H * W * A, K)."""
    if tensor.dim() != 4:
        raise ValueError(f"A map must have the shape (N, A * K, H, W); got {tuple(tensor.shape)}.")
    n, channels, height, width = tensor.shape
    return tensor.permute(0, 2, 3, 1).reshape(n, height * width * (channels // K), K)


def output_size(inputs: Sample) -> tuple[int, int]:
    """Return (height, width) that detections are scaled to: those named, otherwise the image's."""
    height, width = inputs["image"].shape[-2:]
    return inputs.get("height", height), inputs.get("width", width)
