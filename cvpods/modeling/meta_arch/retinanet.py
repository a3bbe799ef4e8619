"""RetinaNet (arXiv:1708.02002): anchors, IoU thresholds, focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvpods.layers import ShapeSpec
from cvpods.layers.shape_spec import channels_of
from cvpods.modeling.anchor_generator import AnchorGrid, DefaultAnchorGenerator
from cvpods.modeling.backbone import Backbone, build_retinanet_resnet_fpn_backbone
from cvpods.modeling.box_regression import Box2BoxTransform
from cvpods.modeling.losses import one_hot, sigmoid_focal_loss_jit, smooth_l1_loss
from cvpods.modeling.matcher import Matcher
from cvpods.modeling.meta_arch.arguments import input_shapes, shared_arguments
from cvpods.modeling.meta_arch.dense_detector import DenseDetector, permute_to_N_HWA_K
from cvpods.modeling.meta_arch.dense_head import DenseHead
from cvpods.modeling.meta_arch.unassigned import assigned_boxes
from cvpods.structures import Instances, geometry
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError

__all__ = [
    "RetinaNet",
    "RetinaNetDetector",
    "permute_all_cls_and_box_to_N_HWA_K_and_concat",
    "permute_to_N_HWA_K",
]


LOSS_NORMALIZERS = ("ema", "positives")


class RetinaNetDetector(DenseDetector):
    """RetinaNet from plain arguments. It takes those of DenseDetector, and:

    Args:
        anchor_generator: anchors of every level.
        iou_thresholds, iou_labels: see Matcher; low-quality matches are objects too.
        bbox_reg_weights: weights of (dx, dy, dw, dh).
        focal_alpha, focal_gamma: of the focal loss.
        smooth_l1_beta: of the box loss.
        loss_normalizer: one of LOSS_NORMALIZERS.
        reassign_low_quality: see Matcher.

    Raises:
        ConfigError: loss_normalizer is unknown, or thresholds and labels do not fit.
    """

    loss_normalizer: Tensor

    def __init__(
        self,
        *,
        anchor_generator: AnchorGrid,
        iou_thresholds: Sequence[float] = (0.4, 0.5),
        iou_labels: Sequence[int] = (0, -1, 1),
        bbox_reg_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        smooth_l1_beta: float = 0.1,
        loss_normalizer: str = "ema",
        reassign_low_quality: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.anchor_generator = anchor_generator
        self.matcher = Matcher(iou_thresholds, iou_labels, True, reassign_low_quality)
        self.box2box_transform = Box2BoxTransform(bbox_reg_weights)
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.smooth_l1_beta = smooth_l1_beta
        if loss_normalizer not in LOSS_NORMALIZERS:
            raise ConfigError(
                f"MODEL.RETINANET.LOSS_NORMALIZER must be one of {LOSS_NORMALIZERS}; got "
                f"{loss_normalizer!r}."
            )
        self.moving_average = loss_normalizer == "ema"
        # Moving average of the number of objects per process: the normaliser of both losses.
        self.register_buffer("loss_normalizer", torch.tensor(100.0))
        self.loss_normalizer_momentum = 0.9

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # cvpods' checkpoints do not hold the normaliser; loading one keeps the present value.
        state_dict.setdefault(f"{prefix}loss_normalizer", self.loss_normalizer)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @staticmethod
    def arguments(cfg: Any, backbone: Backbone) -> dict[str, Any]:
        """Return the constructor's arguments, read from cfg.MODEL.RETINANET."""
        retinanet = cfg.MODEL.RETINANET
        shapes = input_shapes(cfg, retinanet, backbone)
        make_anchors = cfg.get("build_anchor_generator", DefaultAnchorGenerator)
        anchor_generator = make_anchors(cfg, shapes)
        head = DenseHead(
            in_channels=channels_of(shapes[0]),
            num_convs=retinanet.NUM_CONVS,
            num_classes=retinanet.NUM_CLASSES,
            num_anchors=anchor_generator.num_cell_anchors[0],
            prior_prob=retinanet.PRIOR_PROB,
            norm=retinanet.get("NORM", ""),
        )
        return {
            "backbone": backbone,
            "head": head,
            "anchor_generator": anchor_generator,
            **shared_arguments(cfg, retinanet, plus_one=True),
            "iou_thresholds": retinanet.IOU_THRESHOLDS,
            "iou_labels": retinanet.IOU_LABELS,
            "bbox_reg_weights": retinanet.BBOX_REG_WEIGHTS,
            "focal_alpha": retinanet.FOCAL_LOSS_ALPHA,
            "focal_gamma": retinanet.FOCAL_LOSS_GAMMA,
            "smooth_l1_beta": retinanet.SMOOTH_L1_LOSS_BETA,
            "loss_normalizer": retinanet.LOSS_NORMALIZER,
            "reassign_low_quality": retinanet.REASSIGN_LOW_QUALITY,
        }

    @classmethod
    def from_config(cls, cfg: Any, backbone: Backbone) -> RetinaNetDetector:
        """Build RetinaNet on `backbone` from cfg.MODEL.RETINANET."""
        return cls(**cls.arguments(cfg, backbone))

    def priors(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self.anchor_generator.grid(features)

    def decode(self, box_deltas: Tensor, priors: Tensor, level: int) -> Tensor:
        return self.box2box_transform.apply_deltas(box_deltas, priors, strict=False)

    def losses(
        self, predictions: dict[str, Tensor], priors: list[Tensor], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Return the focal loss of anchors not ignored, and the smooth L1 loss of positives."""
        anchors = torch.cat(priors)
        assigned = [self.assign(anchors, target) for target in targets]
        gt_classes, gt_deltas = (torch.stack(parts) for parts in zip(*assigned, strict=True))
        valid = gt_classes >= 0
        foreground = valid & (gt_classes < self.num_classes)
        normalizer = self.normalizer(foreground)
        is_class = one_hot(gt_classes, self.num_classes)
        cls = sigmoid_focal_loss_jit(
            predictions["cls_logits"], is_class, self.focal_alpha, self.focal_gamma
        )
        box = smooth_l1_loss(predictions["box_deltas"], gt_deltas, self.smooth_l1_beta)
        return {
            "loss_cls": (cls * valid[..., None]).sum() / normalizer,
            "loss_box_reg": (box * foreground[..., None]).sum() / normalizer,
        }

    def normalizer(self, foreground: Tensor) -> Tensor:
        """Return the divisor of the losses, given positives (N, R), averaged over the ranks."""
        if not self.moving_average:
            return comm.all_reduce(foreground.sum(dim=1).clamp(min=1).sum().float(), "mean")
        count = comm.all_reduce(foreground.sum().float(), "mean")
        self.loss_normalizer.lerp_(count.clamp(min=1), 1 - self.loss_normalizer_momentum)
        return self.loss_normalizer.clone()  # the buffer may change before the backward pass

    @torch.no_grad()
    def assign(self, anchors: Tensor, target: Instances) -> tuple[Tensor, Tensor]:
        """Return classes (R,) and deltas (R, 4) of all anchors of an image.

        The class of background is K, that of ignored anchors -1.
        """
        boxes = target.gt_boxes.tensor
        rows, columns = geometry.as_rows(boxes), geometry.as_columns(anchors)
        matches, labels = self.matcher.by_rows(
            lambda part: geometry.iou_table(rows[:, part], columns),
            len(boxes),
            len(anchors),
            anchors.device,
        )
        if len(boxes) == 0:
            return torch.full_like(matches, self.num_classes), torch.zeros_like(anchors)
        gt_index = torch.where(labels == 1, matches, -1)
        assigned = assigned_boxes(gt_index, len(boxes))
        self.unassigned.add(boxes, assigned, self.anchor_generator.strides[0])
        classes = target.gt_classes[matches]
        classes = torch.where(labels == 0, self.num_classes, classes)
        classes = torch.where(labels == -1, -1, classes)
        deltas = self.box2box_transform.get_deltas(anchors, boxes[matches])
        # A box without area has no finite log size; its deltas become 0.
        return classes, deltas.nan_to_num(0.0, 0.0, 0.0)


class RetinaNet(RetinaNetDetector):
    """RetinaNet as cvpods builds it: RetinaNet(cfg), on the device of the config."""

    def __init__(self, cfg: Any) -> None:
        make_backbone = cfg.get("build_backbone", build_retinanet_resnet_fpn_backbone)
        channels = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
        super().__init__(**self.arguments(cfg, make_backbone(cfg, input_shape=channels)))
        self.to(cfg.MODEL.DEVICE)


def permute_all_cls_and_box_to_N_HWA_K_and_concat(  # noqa: N802 - cvpods' name
    box_cls: Sequence[Tensor], box_delta: Sequence[Tensor], num_classes: int = 80
) -> tuple[Tensor, Tensor]:
    """Return the maps of all levels and images as (N * R, K) and (N * R, 4)."""
    cls = torch.cat([permute_to_N_HWA_K(x, num_classes) for x in box_cls], dim=1)
    delta = torch.cat([permute_to_N_HWA_K(x, 4) for x in box_delta], dim=1)
    return cls.reshape(-1, num_classes), delta.reshape(-1, 4)
