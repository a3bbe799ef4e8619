"""Agreement between a detector's classification, its boxes and its training weights.

FeatureAlign is motivated by locations that score an object well but place its box badly. The heat
maps here show these quantities of every location, for AutoAssign and FeatureAlign.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cvpods.structures import ImageList
from cvpods.utils.errors import ConfigError
from cvpods_ext.kernels.pairs import Pairs, inside_pairs
from cvpods_ext.kernels.segments import segment_sum
from cvpods_ext.methods.auto_assign import AutoAssign
from cvpods_ext.methods.auto_assign.loss import (
    location_loss,
    log_center_prior,
    log_class_confidence,
    log_positive_weights,
)
from cvpods_ext.methods.feature_align import FeatureAlign
from cvpods_ext.methods.feature_align.loss import log_filtered_score


class Alignment(NamedTuple):
    """Heat maps (H, W) of an object, in pixels of the network's input.

    Every pixel has the value of its nearest location; locations outside the box have 0.

    Args:
        level: name of the level that has most of the object's weight. The maps show its locations.
        classification: class score times objectness.
        regression: exp(-reg_weight * GIoU loss).
        auto_assign: weight of a location in the object's bag, without the feature filter.
        feature_align: the same with the feature filter.
    """

    level: str
    classification: Tensor
    regression: Tensor
    auto_assign: Tensor
    feature_align: Tensor


def check_model(model: nn.Module) -> AutoAssign:
    """Return the model, typed as AutoAssign, from which FeatureAlign derives.

    Raises:
        ConfigError: the model is another detector.
    """
    if not isinstance(model, AutoAssign):
        raise ConfigError(
            "An alignment figure needs AutoAssign or FeatureAlign; this model is "
            f"{type(model).__name__}."
        )
    return model


def training_weight(model: AutoAssign) -> str:
    """Return the field of Alignment that holds the weights with which the model trains."""
    filtered = isinstance(model, FeatureAlign) and model.loss.get("feature_filter", True)
    return "feature_align" if filtered else "auto_assign"


@torch.no_grad()
def alignment_maps(
    model: nn.Module, images: ImageList, boxes: Tensor, classes: Tensor
) -> list[Alignment]:
    """Compute the heat maps of M objects of an image, with the model's own prior.

    Args:
        model: AutoAssign or FeatureAlign, in evaluation mode.
        images: one image, as the model's preprocess_image returns it.
        boxes: (M, 4) xyxy, pixels of that image.
        classes: (M,) int64 in [0, K).

    Raises:
        ConfigError: the model is another detector.
    """
    detector = check_model(model)
    outputs, priors = detector.predict(images)
    points, strides = torch.cat(priors), detector.strides(priors)
    counts = torch.tensor([len(level) for level in priors], device=points.device)
    levels = torch.arange(len(priors), device=points.device).repeat_interleave(counts)
    pairs = inside_pairs(points, boxes, classes)
    values = _pair_values(detector, outputs, pairs, points, strides, levels)
    deciding = Alignment._fields.index(training_weight(detector)) - 1
    maps = []
    for i in range(len(boxes)):
        mine = pairs.box == i
        location, of_box = pairs.location[mine], values[:, mine]
        level = int(segment_sum(of_box[deciding], levels[location], len(priors)).argmax())
        table = of_box.new_zeros((len(of_box), len(points)))
        table[:, location] = of_box
        stride = detector.point_generator.strides[level]
        nearest = _nearest_location(priors[level], stride, images.image_sizes[0])
        painted = table[:, levels == level][:, nearest]
        maps.append(Alignment(detector.in_features[level], *painted))
    return maps


def _pair_values(
    model: AutoAssign,
    outputs: dict[str, Tensor],
    pairs: Pairs,
    points: Tensor,
    strides: Tensor,
    levels: Tensor,
) -> Tensor:
    """Return the four quantities of Alignment (4, P) for P pairs of a box and a location in it."""
    log_pc = log_class_confidence(pairs, outputs["cls_logits"], outputs["obj_score"])
    ltrb = model.distances(outputs["box_deltas"], strides[:, None])
    log_pb = -model.loss.get("reg_weight", 5.0) * location_loss(pairs, ltrb, points)
    shape = (len(model.in_features), model.num_classes, 2)
    mu, sigma = (
        pairs.per_level_and_class(values.expand(shape), levels)
        for values in (model.mu, model.sigma)
    )
    log_g = log_center_prior(pairs, points, strides, mu, sigma)
    log_weights = [
        log_positive_weights(pairs, log_score, log_g)
        for log_score in (log_pc + log_pb, log_filtered_score(log_pc, log_pb))
    ]
    return torch.stack([log_pc, log_pb, *log_weights]).exp()


def _nearest_location(points: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return the index (H, W) of the location that is nearest to each pixel.

    Args:
        points: (R_l, 2), the locations of one level.
        stride: their distance in pixels.
        size: (height, width) of the image.
    """
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
