"""ATSS (arXiv:1912.02424): one square anchor per location, chosen for boxes by their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvpods.modeling.anchor_generator import AnchorGrid
from cvpods.modeling.backbone import Backbone
from cvpods.modeling.box_regression import Box2BoxTransform
from cvpods.modeling.meta_arch import DenseDetector, DenseHead, shared_arguments
from cvpods.structures import Instances
from cvpods.utils import comm
from cvpods_ext.assigners.atss import atss_assign
from cvpods_ext.losses.atss import AtssTargets, atss_loss, atss_targets


class ATSS(DenseDetector):
    """ATSS; arguments of DenseDetector, and:

    Args:
        anchor_generator: one anchor per location, of side ANCHOR_SCALE * stride.
        topk: candidates per level and box.
        bbox_reg_weights: weights of (dx, dy, dw, dh).
        reg_weight: factor of the box loss.
        focal_alpha, focal_gamma: of the focal loss.
    """

    output_channels = {"cls_logits": None, "box_deltas": 4, "centerness": 1}

    def __init__(
        self,
        *,
        anchor_generator: AnchorGrid,
        topk: int = 9,
        bbox_reg_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        reg_weight: float = 2.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.anchor_generator = anchor_generator
        self.topk = topk
        self.box2box_transform = Box2BoxTransform(bbox_reg_weights)
        self.reg_weight = reg_weight
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    @classmethod
    def from_config(cls, cfg: Any, backbone: Backbone) -> ATSS:
        """Build ATSS on `backbone` from cfg.MODEL.ATSS."""
        atss = cfg.MODEL.ATSS
        shapes = [backbone.output_shape()[name] for name in atss.IN_FEATURES]
        strides = [shape.stride for shape in shapes]
        return cls(
            backbone=backbone,
            head=DenseHead(
                in_channels=shapes[0].channels,
                num_convs=atss.NUM_CONVS,
                num_classes=atss.NUM_CLASSES,
                prior_prob=atss.PRIOR_PROB,
                norm="GN",
                quality="centerness",
                num_scales=len(shapes),
            ),
            anchor_generator=AnchorGrid(
                sizes=[[atss.ANCHOR_SCALE * stride] for stride in strides],
                aspect_ratios=[[1.0]],
                strides=strides,
                offset=atss.ANCHOR_OFFSET,
                persistent=False,
            ),
            topk=atss.TOPK,
            bbox_reg_weights=atss.BBOX_REG_WEIGHTS,
            reg_weight=atss.REG_WEIGHT,
            focal_alpha=atss.FOCAL_LOSS_ALPHA,
            focal_gamma=atss.FOCAL_LOSS_GAMMA,
            **shared_arguments(cfg, atss),
        )

    def priors(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self.anchor_generator.grid(features)

    def decode(self, box_deltas: Tensor, priors: Tensor, level: int) -> Tensor:
        return self.box2box_transform.apply_deltas(box_deltas, priors, strict=False)

    def candidate_scores(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Threshold on the class score; rank by sqrt(class score * centerness)."""
        scores = outputs["cls_logits"].sigmoid()
        return scores, (scores * outputs["centerness"].sigmoid()).sqrt()

    def losses(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """The three losses; normalisers are averaged over the ranks and never below 1.

        Class and centerness losses are divided by the number of positives, the box loss by the
        sum of their centerness.
        """
        anchors = torch.cat(priors)
        wanted = self.assign(anchors, [len(level) for level in priors], targets)
        boxes = self.box2box_transform.apply_deltas(
            predictions["box_deltas"], anchors, strict=False
        )
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
        """Targets of all images, (N, R, ...)."""
        per_image = []
        for target in targets:
            boxes = target.gt_boxes.tensor
            gt_index = atss_assign(anchors, level_sizes, boxes, topk=self.topk).gt_index
            per_image.append(
                atss_targets(anchors, gt_index, boxes, target.gt_classes, self.num_classes)
            )
        return AtssTargets(*(torch.stack(parts) for parts in zip(*per_image, strict=True)))
