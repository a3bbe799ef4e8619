"""Where a detector sees an object, where it places it well, and whom it trains: do they agree?

The question of FeatureAlign's motivation, asked of AutoAssign and of FeatureAlign.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cvpods.structures import ImageList
from cvpods.utils.errors import ConfigError
from cvpods_ext.kernels.pairs import inside_pairs
from cvpods_ext.kernels.segments import segment_sum
from cvpods_ext.methods.auto_assign import AutoAssign
from cvpods_ext.methods.auto_assign.loss import (
    location_loss,
    log_center_prior,
    log_class_confidence,
    log_positive_weights,
)
from cvpods_ext.methods.feature_align import FeatureAlign
from cvpods_ext.methods.feature_align.loss import log_filtered_score, per_level_and_class


class Alignment(NamedTuple):
    """Heat maps (H, W) of an object, in pixels of the network's input.

    Every pixel has the value of its nearest location, 0 where that does not lie in the box.

    level: name of the level that has most of the object's weight, whose locations are shown;
    classification: class score times objectness; regression: exp(-reg_weight * GIoU loss);
    auto_assign: weight of a location in the object's bag, without the feature filter;
    feature_align: with it.
    """

    level: str
    classification: Tensor
    regression: Tensor
    auto_assign: Tensor
    feature_align: Tensor


def check_model(model: nn.Module) -> None:
    """Raise ConfigError unless the model is AutoAssign or FeatureAlign."""
    if not isinstance(model, AutoAssign):
        raise ConfigError(
            "Alignment is shown for experiments of AutoAssign and FeatureAlign; this model is "
            f"{type(model).__name__}."
        )


def own_weight(model: AutoAssign) -> str:
    """The map of Alignment that shows by what weights the model trains."""
    filtered = isinstance(model, FeatureAlign) and model.loss.get("feature_filter", True)
    return "feature_align" if filtered else "auto_assign"


@torch.no_grad()
def alignment_maps(
    model: nn.Module, images: ImageList, boxes: Tensor, classes: Tensor
) -> list[Alignment]:
    """The heat maps of some objects of an image.

    The weights are those of the model's own prior.

    Args:
        model: AutoAssign or FeatureAlign, in evaluation.
        images: one image as the model's preprocess_image makes it.
        boxes: (M, 4) xyxy of the objects, pixels of that image; classes: (M,) int64 in [0, K).

    Raises:
        ConfigError: the model is another one.
    """
    check_model(model)
    outputs, priors = model.predict(images)
    points, strides = torch.cat(priors), model.strides(priors)
    levels = torch.repeat_interleave(
        torch.arange(len(priors), device=points.device),
        torch.tensor([len(level) for level in priors], device=points.device),
    )
    shape = (len(priors), model.num_classes, 2)
    pairs = inside_pairs(points, boxes, classes)
    log_pc = log_class_confidence(pairs, outputs["cls_logits"], outputs["obj_score"])
    ltrb = model.distances(outputs["box_deltas"], strides[:, None])
    log_pb = -model.loss.get("reg_weight", 5.0) * location_loss(pairs, ltrb, points)
    mu, sigma = (
        per_level_and_class(pairs, values.expand(shape), levels)
        for values in (model.mu, model.sigma)
    )
    log_g = log_center_prior(pairs, points, strides, mu, sigma)
    log_weights = [
        log_positive_weights(pairs, log_score, log_g)
        for log_score in (log_pc + log_pb, log_filtered_score(log_pc, log_pb))
    ]
    values = torch.stack([log_pc, log_pb, *log_weights]).exp()
    maps = []
    deciding = Alignment._fields.index(own_weight(model)) - 1
    for i in range(len(boxes)):
        mine = pairs.box == i
        location, of_box = pairs.location[mine], values[:, mine]
        level = int(segment_sum(of_box[deciding], levels[location], len(priors)).argmax())
        table = of_box.new_zeros((len(of_box), len(points)))
        table[:, location] = of_box
        stride = model.point_generator.strides[level]
        nearest = _nearest(priors[level], stride, images.image_sizes[0])
        painted = table[:, levels == level][:, nearest]
        maps.append(Alignment(model.in_features[level], *painted))
    return maps


def _nearest(points: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """(height, width) index of the location (R_l, 2) of a level that is nearest to each pixel."""
    columns = int((points[:, 1] == points[0, 1]).sum())
    counts = len(points) // columns, columns
    row, column = (
        ((torch.arange(n, device=points.device) + 0.5 - first) / stride)
        .round()
        .long()
        .clamp(0, count - 1)
        for n, first, count in zip(size, points[0].flip(0), counts, strict=True)
    )
    return row[:, None] * columns + column
