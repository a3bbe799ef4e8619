"""Detector of ATSS (arXiv:1912.02424): one square anchor per location, assigned by statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cvpods.layers.shape_spec import channels_of, strides_of
from cvpods.modeling.anchor_generator import AnchorGrid
from cvpods.modeling.backbone import Backbone
from cvpods.modeling.box_regression import Box2BoxTransform, Shift2BoxTransform
from cvpods.modeling.meta_arch import DenseDetector, DenseHead, input_shapes, shared_arguments
from cvpods.modeling.meta_arch.scores import Scores, check_score_type, combine_scores
from cvpods.modeling.meta_arch.unassigned import assigned_boxes
from cvpods.structures import Instances, PixelConvention
from cvpods.structures.geometry import centers
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError
from cvpods.utils.ranges import Range
from cvpods_ext.kernels.assignment import Assignment
from cvpods_ext.methods.atss.assign import atss_assign
from cvpods_ext.methods.atss.compared.max_iou import max_iou_assign
from cvpods_ext.methods.atss.compared.scale_range import scale_range_assign
from cvpods_ext.methods.atss.compared.topk_iou import topk_iou_assign
from cvpods_ext.methods.atss.loss import AtssTargets, atss_loss, atss_targets

# (anchors (R, 4), level_sizes, gt_boxes (M, 4)) -> Assignment
Assigner = Callable[[Tensor, Sequence[int], Tensor], Assignment]
REGRESSION_TYPES = ("BOX", "POINT")
# Bias of the box predictor with POINT: every side starts 4 / 8 of the anchor's side away from its
# centre, so that the box is the anchor.
POINT_BIAS = 4.0
RANGES = {"ANCHOR_SCALE": Range(0, inside=True), "TOPK": Range(1, whole=True)}


class ATSS(DenseDetector):
    """ATSS. It takes the arguments of DenseDetector, and:

    Args:
        anchor_generator: one anchor per location, of side ANCHOR_SCALE * stride.
        assigner: rule that assigns anchors to boxes, atss_assign or one of methods/atss/compared.
        regression_type: "BOX": deltas to the anchor; "POINT": distances from its centre to the
            sides, relu(output) in eighths of the anchor's side.
        bbox_reg_weights: with BOX, weights of (dx, dy, dw, dh).
        reg_weight: factor of the box loss.
        focal_alpha, focal_gamma: of the focal loss.
        score_type: one of SCORE_TYPES.
    """

    output_channels = {"cls_logits": None, "box_deltas": 4, "centerness": 1}

    def __init__(
        self,
        *,
        anchor_generator: AnchorGrid,
        assigner: Assigner = atss_assign,
        regression_type: str = "BOX",
        bbox_reg_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        reg_weight: float = 2.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        score_type: str = "sqrt",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.score_type = check_score_type(score_type, "ATSS")
        self.anchor_generator = anchor_generator
        self.assigner = assigner
        if regression_type not in REGRESSION_TYPES:
            raise ConfigError(
                f"MODEL.ATSS.REGRESSION_TYPE must be one of {REGRESSION_TYPES}, "
                f"got {regression_type!r}."
            )
        self.regression_type = regression_type
        self.shift2box_transform = Shift2BoxTransform((1.0, 1.0, 1.0, 1.0))
        self.box2box_transform = Box2BoxTransform(bbox_reg_weights)
        self.reg_weight = reg_weight
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def check_training_size(self, height: int, width: int) -> None:
        counts = self.anchor_generator.count(height, width)
        topk = getattr(self.assigner, "keywords", {}).get("topk", 0)
        all_levels = getattr(self.assigner, "func", None) is topk_iou_assign
        most = sum(counts) if all_levels else max(counts)
        if topk > most:
            where = "all levels have" if all_levels else "the finest level has"
            raise ConfigError(
                f"MODEL.ATSS.TOPK {topk} is more than the {most} anchors that {where} of the "
                f"largest training image, {height} x {width}."
            )

    @classmethod
    def from_config(cls, cfg: Any, backbone: Backbone) -> ATSS:
        """Build ATSS on `backbone` from cfg.MODEL.ATSS."""
        atss = cfg.MODEL.ATSS
        shapes = input_shapes(cfg, atss, backbone, RANGES)
        strides = strides_of(shapes)
        sides = [atss.ANCHOR_SCALE * stride for stride in strides]
        return cls(
            backbone=backbone,
            head=DenseHead(
                in_channels=channels_of(shapes[0]),
                num_convs=atss.NUM_CONVS,
                num_classes=atss.NUM_CLASSES,
                prior_prob=atss.PRIOR_PROB,
                norm="GN",
                quality="centerness",
                num_scales=len(shapes),
                deformable=atss.USE_DCN_IN_TOWER,
                box_bias=POINT_BIAS if atss.REGRESSION_TYPE == "POINT" else 0.0,
            ),
            anchor_generator=AnchorGrid(
                sizes=[[side] for side in sides],
                aspect_ratios=[[1.0]],
                strides=strides,
                offset=atss.ANCHOR_OFFSET,
                shift=atss.ANCHOR_SHIFT,
                persistent=False,
            ),
            assigner=make_assigner(
                atss.POSITIVE_TYPE, atss.TOPK, sides, PixelConvention.from_config(cfg).inside
            ),
            regression_type=atss.REGRESSION_TYPE,
            bbox_reg_weights=atss.BBOX_REG_WEIGHTS,
            reg_weight=atss.REG_WEIGHT,
            focal_alpha=atss.FOCAL_LOSS_ALPHA,
            focal_gamma=atss.FOCAL_LOSS_GAMMA,
            score_type=atss.SCORE_TYPE,
            **shared_arguments(cfg, atss, plus_one=True),
        )

    def priors(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self.anchor_generator.grid(features)

    def decode(self, box_deltas: Tensor, priors: Tensor, level: int) -> Tensor:
        return self.boxes(box_deltas, priors)

    def boxes(self, outputs: Tensor, anchors: Tensor) -> Tensor:
        """Return boxes (..., R, 4), given the head's outputs (..., R, 4) for anchors (R, 4)."""
        if self.regression_type == "BOX":
            return self.box2box_transform.apply_deltas(outputs, anchors, strict=False)
        unit = (anchors[..., 2:3] - anchors[..., :1]) / 8
        boxes = self.shift2box_transform.apply_deltas(outputs.relu() * unit, centers(anchors))
        return self.pixels.outset(boxes)

    def candidate_scores(self, outputs: dict[str, Tensor]) -> Scores:
        """Combine class score and centerness by `score_type`."""
        scores, centerness = outputs["cls_logits"].sigmoid(), outputs["centerness"].sigmoid()
        return combine_scores(self.score_type, scores, centerness)

    def losses(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Return the three losses; normalisers are averaged over the ranks and at least 1.

        Class and centerness losses are divided by the number of positives, the box loss by the
        sum of their centerness.
        """
        anchors = torch.cat(priors)
        wanted = self.assign(anchors, [len(level) for level in priors], targets)
        boxes = self.pixels.inset(self.boxes(predictions["box_deltas"], anchors))
        sums = atss_loss(
            predictions["cls_logits"],
            boxes,
            predictions["centerness"],
            wanted,
            alpha=self.focal_alpha,
            gamma=self.focal_gamma,
        )
        positive = (wanted.classes >= 0) & (wanted.classes < self.num_classes)
        counts = torch.stack([positive.sum().float(), wanted.centerness.sum()])
        num_positives, sum_centerness = comm.all_reduce(counts, "mean").clamp(min=1)
        return {
            "loss_cls": sums["loss_cls"] / num_positives,
            "loss_box_reg": sums["loss_box_reg"] * self.reg_weight / sum_centerness,
            "loss_centerness": sums["loss_centerness"] / num_positives,
        }

    def assign(
        self, anchors: Tensor, level_sizes: Sequence[int], targets: list[Instances]
    ) -> AtssTargets:
        """Return the targets (N, R, ...) of all images."""
        per_image = []
        for target in targets:
            boxes = target.gt_boxes.tensor
            gt_index = self.assigner(anchors, level_sizes, boxes).gt_index
            assigned = assigned_boxes(gt_index, len(boxes))
            self.unassigned.add(boxes, assigned, self.anchor_generator.strides[0])
            boxes = self.pixels.inset(boxes)
            per_image.append(
                atss_targets(anchors, gt_index, boxes, target.gt_classes, self.num_classes)
            )
        return AtssTargets(*(torch.stack(parts) for parts in zip(*per_image, strict=True)))


def make_assigner(
    positive_type: str, topk: int, sides: Sequence[float], inside: float = 0.0
) -> Assigner:
    """Return the assigner that MODEL.ATSS.POSITIVE_TYPE names.

    Args:
        topk: number of candidates, for "ATSS" and "TOPK".
        sides: side of the anchors of each level. With "SSC", the boxes of a level have sizes
            between the side of the level below it and its own; with strides 8, 16, 32, 64 the
            bounds are 64, 128, 256, 512 as in FCOS.
        inside: pixels by which a centre must lie inside a box.
    """
    size_ranges = list(zip([0.0, *sides[:-1]], [*sides[:-1], math.inf], strict=True))
    assigners: dict[str, Assigner] = {
        "ATSS": partial(atss_assign, topk=topk, inside=inside),
        "IoU": partial(max_iou_assign, inside=inside),
        "SSC": partial(scale_range_assign, size_ranges=size_ranges, inside=inside),
        "TOPK": partial(topk_iou_assign, topk=topk, inside=inside),
    }
    if positive_type not in assigners:
        raise ConfigError(
            f"MODEL.ATSS.POSITIVE_TYPE must be one of {list(assigners)}, got {positive_type!r}."
        )
    return assigners[positive_type]
