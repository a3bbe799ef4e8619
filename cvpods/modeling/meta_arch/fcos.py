"""FCOS (arXiv:1904.01355): points, size ranges per level, centerness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cvpods.layers import ShapeSpec
from cvpods.layers.shape_spec import channels_of
from cvpods.modeling.anchor_generator import PointGrid, ShiftGenerator
from cvpods.modeling.backbone import Backbone, build_retinanet_resnet_fpn_backbone
from cvpods.modeling.box_regression import Shift2BoxTransform
from cvpods.modeling.losses import iou_loss, one_hot, sigmoid_focal_loss_jit
from cvpods.modeling.meta_arch.arguments import input_shapes, shared_arguments
from cvpods.modeling.meta_arch.dense_detector import DenseDetector, permute_to_N_HWA_K
from cvpods.modeling.meta_arch.dense_head import DenseHead, Scale
from cvpods.modeling.meta_arch.scores import Scores, check_score_type, combine_scores
from cvpods.modeling.meta_arch.unassigned import assigned_boxes
from cvpods.structures import Instances, geometry
from cvpods.structures.geometry import centerness_of
from cvpods.structures.slices import slices
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError

__all__ = [
    "FCOS",
    "FCOSDetector",
    "Scale",
    "centerness_of",
    "permute_all_cls_and_box_to_N_HWA_K_and_concat",
    "permute_to_N_HWA_K",
]


# Decoded distances stay below 100,000 pixels, so that areas stay finite in float32.
MAX_LOG_DISTANCE = math.log(1e5)


IOU_LOSS_TYPES = ("iou", "linear_iou", "giou")


class FCOSDetector(DenseDetector):
    """FCOS from plain arguments. It takes those of DenseDetector, and:

    Args:
        point_generator: points of every level.
        size_ranges: for each level, the range in pixels of the largest distance that its points
            are assigned to.
        center_sampling_radius: only points within this many strides of a box's centre are assigned
            to it; 0 for all points in the box.
        norm_reg_targets: distances are relu(x) * stride instead of exp(x).
        bbox_reg_weights: weights of the distances.
        iou_loss_type: "iou", "linear_iou" or "giou".
        focal_alpha, focal_gamma: of the focal loss.
        score_type: one of SCORE_TYPES.

    Raises:
        ConfigError: score_type or iou_loss_type is unknown.
    """

    output_channels = {"cls_logits": None, "box_deltas": 4, "centerness": 1}

    def __init__(
        self,
        *,
        point_generator: PointGrid,
        size_ranges: Sequence[Sequence[float]],
        center_sampling_radius: float = 0.0,
        norm_reg_targets: bool = False,
        bbox_reg_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        iou_loss_type: str = "iou",
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        score_type: str = "sqrt",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.score_type = check_score_type(score_type, "FCOS")
        self.shift_generator = point_generator
        self.size_ranges = [tuple(bounds) for bounds in size_ranges]
        self.center_sampling_radius = center_sampling_radius
        self.norm_reg_targets = norm_reg_targets
        self.shift2box_transform = Shift2BoxTransform(bbox_reg_weights)
        if iou_loss_type not in IOU_LOSS_TYPES:
            raise ConfigError(
                f"MODEL.FCOS.IOU_LOSS_TYPE must be one of {IOU_LOSS_TYPES}; got {iou_loss_type!r}."
            )
        self.iou_loss_type = iou_loss_type
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    @staticmethod
    def arguments(cfg: Any, backbone: Backbone) -> dict[str, Any]:
        """Return the constructor's arguments, read from cfg.MODEL.FCOS."""
        fcos = cfg.MODEL.FCOS
        shapes = input_shapes(cfg, fcos, backbone)
        make_points = cfg.get("build_shift_generator", ShiftGenerator)
        point_generator = make_points(cfg, shapes)
        head = DenseHead(
            in_channels=channels_of(shapes[0]),
            num_convs=fcos.NUM_CONVS,
            num_classes=fcos.NUM_CLASSES,
            num_anchors=point_generator.num_cell_shifts[0],
            prior_prob=fcos.PRIOR_PROB,
            norm="GN",
            quality="centerness",
            quality_on_box_tower=fcos.CENTERNESS_ON_REG,
            num_scales=len(shapes),
        )
        return {
            "backbone": backbone,
            "head": head,
            "point_generator": point_generator,
            **shared_arguments(cfg, fcos),
            "size_ranges": fcos.OBJECT_SIZES_OF_INTEREST,
            "center_sampling_radius": fcos.CENTER_SAMPLING_RADIUS,
            "norm_reg_targets": fcos.NORM_REG_TARGETS,
            "bbox_reg_weights": fcos.BBOX_REG_WEIGHTS,
            "iou_loss_type": fcos.IOU_LOSS_TYPE,
            "focal_alpha": fcos.FOCAL_LOSS_ALPHA,
            "focal_gamma": fcos.FOCAL_LOSS_GAMMA,
            "score_type": fcos.SCORE_TYPE,
        }

    @classmethod
    def from_config(cls, cfg: Any, backbone: Backbone) -> FCOSDetector:
        """Build FCOS on `backbone` from cfg.MODEL.FCOS."""
        return cls(**cls.arguments(cfg, backbone))

    def priors(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self.shift_generator.grid(features)

    def distances(self, box_deltas: Tensor, strides: Tensor | int) -> Tensor:
        """Return the distances (..., 4) in pixels, given the head's raw output."""
        if self.norm_reg_targets:
            return box_deltas.relu() * strides
        return box_deltas.clamp(max=MAX_LOG_DISTANCE).exp()

    def decode(self, box_deltas: Tensor, priors: Tensor, level: int) -> Tensor:
        distances = self.distances(box_deltas, self.shift_generator.strides[level])
        return self.shift2box_transform.apply_deltas(distances, priors)

    def candidate_scores(self, outputs: dict[str, Tensor]) -> Scores:
        """Combine class score and centerness by `score_type`."""
        scores, centerness = outputs["cls_logits"].sigmoid(), outputs["centerness"].sigmoid()
        return combine_scores(self.score_type, scores, centerness)

    def losses(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Return the focal loss of all points, and IoU and centerness losses of positives.

        The IoU loss is weighted by centerness; counts are averaged over ranks.
        """
        strides = torch.cat(
            [
                p.new_full((len(p), 1), s)
                for p, s in zip(priors, self.shift_generator.strides, strict=True)
            ]
        )
        assigned = [self.assign(priors, target) for target in targets]
        gt_classes, gt_deltas = (torch.stack(parts) for parts in zip(*assigned, strict=True))
        positive = gt_classes < self.num_classes
        centerness = centerness_of(gt_deltas) * positive
        counts = comm.all_reduce(torch.stack([positive.sum().float(), centerness.sum()]), "mean")
        num_positives, sum_centerness = counts.clamp(min=1)

        is_class = one_hot(gt_classes, self.num_classes)
        cls = sigmoid_focal_loss_jit(
            predictions["cls_logits"], is_class, self.focal_alpha, self.focal_gamma
        )
        # Negatives compare a unit box with itself: loss and gradient 0 without indexing.
        distances = self.distances(predictions["box_deltas"], strides)
        distances = torch.where(positive[..., None], distances, 1.0)
        gt_deltas = torch.where(positive[..., None], gt_deltas, 1.0)
        box = iou_loss(
            distances, gt_deltas, centerness, box_mode="ltrb", loss_type=self.iou_loss_type
        )
        quality = F.binary_cross_entropy_with_logits(
            predictions["centerness"][..., 0], centerness, reduction="none"
        )
        return {
            "loss_cls": cls.sum() / num_positives,
            "loss_box_reg": box.sum() / sum_centerness,
            "loss_centerness": (quality * positive).sum() / num_positives,
        }

    @torch.no_grad()
    def assign(self, points: list[Tensor], target: Instances) -> tuple[Tensor, Tensor]:
        """Return classes (R,), K for background, and distances (R, 4) of all points of an image.

        A point is assigned to the smallest box that contains it (near the centre, with center
        sampling) and whose largest distance lies in the range of the point's level.
        """
        all_points = torch.cat(points)
        boxes = target.gt_boxes.tensor
        if len(boxes) == 0:
            zeros = all_points.new_zeros(len(all_points))
            return zeros.long() + self.num_classes, zeros[:, None].repeat(1, 4)
        counts = [len(level) for level in points]
        ranges = boxes.new_tensor(self.size_ranges).repeat_interleave(
            torch.tensor(counts, device=boxes.device), dim=0, output_size=sum(counts)
        )
        smallest = boxes.new_full((len(all_points),), torch.inf)
        index = torch.zeros(len(all_points), dtype=torch.int64, device=boxes.device)
        for part in slices(len(boxes), 4 * len(all_points), boxes.device):
            area, row = self._areas_that_fit(points, boxes[part], ranges).min(dim=0)
            smaller = area < smallest  # the first of equals stays
            smallest = torch.where(smaller, area, smallest)
            index = torch.where(smaller, row + part.start, index)
        positive = smallest < torch.inf
        assigned = assigned_boxes(torch.where(positive, index, -1), len(boxes))
        self.unassigned.add(boxes, assigned, self.shift_generator.strides[0])
        classes = torch.where(positive, target.gt_classes[index], self.num_classes)
        return classes, self.shift2box_transform.get_deltas(all_points, boxes[index])

    def _areas_that_fit(self, points: list[Tensor], boxes: Tensor, ranges: Tensor) -> Tensor:
        """Return the area (M, R) of each box for points that fit it, and inf for other points."""
        deltas = self.shift2box_transform.get_deltas(torch.cat(points), boxes[:, None])  # (M, R, 4)
        largest = deltas.amax(-1)
        inside = self._inside(points, boxes, deltas)
        fits = inside & (largest >= ranges[:, 0]) & (largest <= ranges[:, 1])
        return torch.where(fits, geometry.areas(boxes)[:, None], torch.inf)

    def _inside(self, points: list[Tensor], boxes: Tensor, deltas: Tensor) -> Tensor:
        """Return (M, R) bool: whether points lie in a box and, if sampled, near its centre."""
        inside = deltas.amin(-1) > 0
        if self.center_sampling_radius <= 0:
            return inside
        centers = geometry.centers(boxes)[:, None]  # (M, 1, 2)
        near = []
        for level, stride in zip(points, self.shift_generator.strides, strict=True):
            radius = stride * self.center_sampling_radius
            square = geometry.boxes_around(centers, centers.new_full((4,), radius))
            near.append(geometry.is_inside(level, square))
        return inside & torch.cat(near, dim=1)


class FCOS(FCOSDetector):
    """FCOS as cvpods builds it: FCOS(cfg), on the device of the config."""

    def __init__(self, cfg: Any) -> None:
        make_backbone = cfg.get("build_backbone", build_retinanet_resnet_fpn_backbone)
        channels = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
        super().__init__(**self.arguments(cfg, make_backbone(cfg, input_shape=channels)))
        self.to(cfg.MODEL.DEVICE)


def permute_all_cls_and_box_to_N_HWA_K_and_concat(  # noqa: N802 - cvpods' name
    box_cls: Sequence[Tensor],
    box_delta: Sequence[Tensor],
    box_center: Sequence[Tensor],
    num_classes: int = 80,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the maps of all levels and images as (N * R, K), (N * R, 4) and (N * R, 1)."""
    cls = torch.cat([permute_to_N_HWA_K(x, num_classes) for x in box_cls], dim=1)
    delta = torch.cat([permute_to_N_HWA_K(x, 4) for x in box_delta], dim=1)
    center = torch.cat([permute_to_N_HWA_K(x, 1) for x in box_center], dim=1)
    return cls.reshape(-1, num_classes), delta.reshape(-1, 4), center.reshape(-1, 1)
