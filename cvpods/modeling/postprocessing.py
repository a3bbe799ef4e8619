"""Scaling of detections from the resized image to the original one."""

from __future__ import annotations

from cvpods.structures import CONTINUOUS, Boxes, Instances, PixelConvention


def detector_postprocess(
    results: Instances,
    output_height: int,
    output_width: int,
    mask_threshold: float = 0.5,
    pixels: PixelConvention = CONTINUOUS,
) -> Instances:
    """Scale the boxes of `results` to an image of the given size, clip them, drop empty ones.

    `results` itself stays as it is. Boxes are in the field `pred_boxes` or `proposal_boxes`.

    Args:
        mask_threshold: unused; cvpods' callers pass it.

    Raises:
        ValueError: `results` has neither field.
        NonFiniteBoxes: a box to clip is infinite or NaN.
    """
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    name = next((n for n in ("pred_boxes", "proposal_boxes") if scaled.has(n)), None)
    if name is None:
        raise ValueError("detector_postprocess needs a field 'pred_boxes' or 'proposal_boxes'.")
    ratios = output_width / width, output_height / height
    boxes = Boxes(pixels.scale(scaled.get(name).tensor, *ratios))
    if pixels.clips_scaled:
        boxes.clip(scaled.image_size)
    scaled.set(name, boxes)
    return scaled[boxes.nonempty()]
