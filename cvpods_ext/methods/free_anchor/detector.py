"""Detector of FreeAnchor (arXiv:1909.02466): RetinaNet's network with learned matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvpods.layers.shape_spec import channels_of
from cvpods.modeling.anchor_generator import AnchorGrid, DefaultAnchorGenerator
from cvpods.modeling.backbone import Backbone
from cvpods.modeling.box_regression import Box2BoxTransform
from cvpods.modeling.meta_arch import DenseDetector, DenseHead, input_shapes, shared_arguments
from cvpods.structures import Instances
from cvpods.utils.errors import ConfigError
from cvpods.utils.ranges import Range
from cvpods_ext.methods.free_anchor.loss import free_anchor_loss

RANGES = {
    "FOCAL_LOSS_ALPHA": Range(0, 1),
    "POS_ANCHOR_TOPK": Range(1, whole=True),
    "BBOX_THRESHOLD": Range(0, 1),
}


class FreeAnchor(DenseDetector):
    """FreeAnchor. It takes the arguments of DenseDetector, and:

    Args:
        anchor_generator: anchors of every level.
        bbox_reg_weights: weights of (dx, dy, dw, dh).
        loss: further arguments of free_anchor_loss.
    """

    def __init__(
        self,
        *,
        anchor_generator: AnchorGrid,
        bbox_reg_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        loss: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.anchor_generator = anchor_generator
        self.box2box_transform = Box2BoxTransform(bbox_reg_weights)
        self.loss = {"bbox_reg_weights": tuple(bbox_reg_weights), **(loss or {})}

    @classmethod
    def from_config(cls, cfg: Any, backbone: Backbone) -> FreeAnchor:
        """Build FreeAnchor on `backbone` from cfg.MODEL.FREE_ANCHOR and ANCHOR_GENERATOR."""
        free_anchor = cfg.MODEL.FREE_ANCHOR
        shapes = input_shapes(cfg, free_anchor, backbone, RANGES)
        anchor_generator = DefaultAnchorGenerator(cfg, shapes)
        return cls(
            backbone=backbone,
            head=DenseHead(
                in_channels=channels_of(shapes[0]),
                num_convs=free_anchor.NUM_CONVS,
                num_classes=free_anchor.NUM_CLASSES,
                num_anchors=anchor_generator.num_cell_anchors[0],
                prior_prob=free_anchor.PRIOR_PROB,
                norm=free_anchor.NORM,
            ),
            anchor_generator=anchor_generator,
            bbox_reg_weights=free_anchor.BBOX_REG_WEIGHTS,
            loss={
                "bag_size": free_anchor.POS_ANCHOR_TOPK,
                "iou_threshold": free_anchor.BBOX_THRESHOLD,
                "alpha": free_anchor.FOCAL_LOSS_ALPHA,
                "gamma": free_anchor.FOCAL_LOSS_GAMMA,
                "reg_weight": free_anchor.REG_WEIGHT,
                "beta": free_anchor.SMOOTH_L1_LOSS_BETA,
                "last_write": free_anchor.LAST_WRITE,
            },
            **shared_arguments(cfg, free_anchor, plus_one=True),
        )

    def check_training_size(self, height: int, width: int) -> None:
        anchors = sum(self.anchor_generator.count(height, width))
        bag = self.loss.get("bag_size", 50)
        if bag > anchors:
            raise ConfigError(
                f"MODEL.FREE_ANCHOR.POS_ANCHOR_TOPK {bag} is more than the {anchors} anchors of "
                f"the largest training image, {height} x {width}."
            )

    def priors(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self.anchor_generator.grid(features)

    def decode(self, box_deltas: Tensor, priors: Tensor, level: int) -> Tensor:
        return self.box2box_transform.apply_deltas(box_deltas, priors, strict=False)

    def losses(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Return the losses of free_anchor_loss; they are normalised per device, as published."""
        return free_anchor_loss(
            predictions["cls_logits"],
            predictions["box_deltas"],
            torch.cat(priors),
            [target.gt_boxes.tensor for target in targets],
            [target.gt_classes for target in targets],
            **self.loss,
        )
