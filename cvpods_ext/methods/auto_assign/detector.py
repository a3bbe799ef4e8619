"""Detector of AutoAssign (arXiv:2007.03496): FCOS's network with an implicit objectness."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cvpods.layers.shape_spec import channels_of, strides_of
from cvpods.modeling.anchor_generator import PointGrid
from cvpods.modeling.backbone import Backbone
from cvpods.modeling.box_regression import Shift2BoxTransform
from cvpods.modeling.meta_arch import DenseDetector, DenseHead, input_shapes, shared_arguments
from cvpods.modeling.meta_arch.scores import Scores, check_score_type, combine_scores
from cvpods.modeling.meta_arch.unassigned import boxes_with_point
from cvpods.structures import Instances
from cvpods.utils import comm
from cvpods.utils.ranges import Range
from cvpods_ext.methods.auto_assign.loss import auto_assign_loss

# Initial bias of the box predictor: a box of 8 x 8 strides around the location.
BOX_BIAS = 4.0
RANGES = {"FOCAL_LOSS_ALPHA": Range(0, 1), "POINT_OFFSET": Range(0, 1)}


class AutoAssign(DenseDetector):
    """AutoAssign. It takes the arguments of DenseDetector, and:

    Args:
        point_generator: the locations of every level.
        loss: further arguments of auto_assign_loss.
        score_type: one of SCORE_TYPES.
        cap_at_locations: limit the candidates of a level to its number of locations.
        clip_before_nms: clip boxes to the image before NMS. The authors' code does not, so that
            NMS compares boxes that reach beyond the image (except in a test at several scales,
            which clips the boxes of each scale).

    The parameters mu and sigma (K, 2) belong to the center prior.
    """

    output_channels = {"cls_logits": None, "box_deltas": 4, "obj_score": 1}

    def __init__(
        self,
        *,
        point_generator: PointGrid,
        loss: dict[str, Any] | None = None,
        score_type: str = "product",
        cap_at_locations: bool = True,
        clip_before_nms: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.score_type = check_score_type(score_type, "AUTO_ASSIGN")
        self.cap_at_locations = cap_at_locations
        self.clip_before_nms = clip_before_nms
        self.point_generator = point_generator
        self.shift2box_transform = Shift2BoxTransform((1.0, 1.0, 1.0, 1.0))
        self.loss = loss or {}
        self.make_prior()

    def make_prior(self) -> None:
        """Create the center prior: a Gaussian of one stride around the centre of a box."""
        self.mu = nn.Parameter(torch.zeros(self.num_classes, 2))
        self.sigma = nn.Parameter(torch.ones(self.num_classes, 2))

    @classmethod
    def from_config(cls, cfg: Any, backbone: Backbone) -> AutoAssign:
        """Build AutoAssign on `backbone` from cfg.MODEL.AUTO_ASSIGN."""
        return cls(**arguments(cfg, cfg.MODEL.AUTO_ASSIGN, backbone))

    def priors(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self.point_generator.grid(features)

    def distances(self, box_deltas: Tensor, strides: Tensor | int) -> Tensor:
        """Return distances (..., 4) to the sides in pixels, given the head's output."""
        return box_deltas.relu() * strides

    def strides(self, priors: Sequence[Tensor]) -> Tensor:
        """Return the stride (R,) of every location, in pixels."""
        pairs = zip(priors, self.point_generator.strides, strict=True)
        return torch.cat([points.new_full((len(points),), stride) for points, stride in pairs])

    def decode(self, box_deltas: Tensor, priors: Tensor, level: int) -> Tensor:
        distances = self.distances(box_deltas, self.point_generator.strides[level])
        return self.shift2box_transform.apply_deltas(distances, priors)

    def candidate_scores(self, outputs: dict[str, Tensor]) -> Scores:
        """Combine class score and objectness by `score_type`."""
        scores, objectness = outputs["cls_logits"].sigmoid(), outputs["obj_score"].sigmoid()
        return combine_scores(self.score_type, scores, objectness)

    def level_cap(self, cap: int | None, locations: int) -> int | None:
        """Return the cap; with cap_at_locations, at most the number of locations."""
        if cap is None or not self.cap_at_locations:
            return cap
        smaller: Any = torch.sym_min(cap, locations)  # locations is symbolic during an export
        return smaller

    def losses(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Return the losses of auto_assign_loss; counts are averaged over ranks."""
        return auto_assign_loss(
            **self.loss_inputs(predictions, priors, targets), mu=self.mu, sigma=self.sigma
        )

    def loss_inputs(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Any]:
        """Return the arguments of the loss, except those of the prior."""
        strides = self.strides(priors)
        for target in targets:
            boxes, levels = target.gt_boxes.tensor, self.point_generator.strides
            self.unassigned.add(boxes, boxes_with_point(boxes, priors, levels), levels[0])
        return {
            "cls_logits": predictions["cls_logits"],
            "obj_logits": predictions["obj_score"],
            "ltrb": self.distances(predictions["box_deltas"], strides[:, None]),
            "points": torch.cat(priors),
            "strides": strides,
            "gt_boxes": [target.gt_boxes.tensor for target in targets],
            "gt_classes": [target.gt_classes for target in targets],
            "average": partial(comm.all_reduce, op="mean"),
            **self.loss,
        }


def arguments(
    cfg: Any, method: Any, backbone: Backbone, deformable: bool = False
) -> dict[str, Any]:
    """Return the arguments of AutoAssign, read from the config and from the method's group.

    Args:
        deformable: the last convolution of both towers is DCNv2.
    """
    shapes = input_shapes(cfg, method, backbone, RANGES)
    return {
        "backbone": backbone,
        "head": DenseHead(
            in_channels=channels_of(shapes[0]),
            num_convs=method.NUM_CONVS,
            num_classes=method.NUM_CLASSES,
            prior_prob=method.PRIOR_PROB,
            norm="GN",
            quality="obj_score",
            num_scales=len(shapes),
            box_bias=BOX_BIAS,
            deformable=deformable,
        ),
        "point_generator": PointGrid(strides=strides_of(shapes), offset=method.POINT_OFFSET),
        "loss": {
            "alpha": method.FOCAL_LOSS_ALPHA,
            "gamma": method.FOCAL_LOSS_GAMMA,
            "reg_weight": method.REG_WEIGHT,
        },
        "score_type": method.SCORE_TYPE,
        "cap_at_locations": method.CAP_AT_LOCATIONS,
        "clip_before_nms": method.CLIP_BEFORE_NMS,
        **shared_arguments(cfg, method),
    }
