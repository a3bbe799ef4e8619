"""From boxes of the resized image to boxes of the original one."""

from __future__ import annotations

from cvpods.structures import Boxes, Instances


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale the boxes of `results` to an image of the given size, clip, drop empty ones.

    `results` itself stays as it is. Boxes are in the field `pred_boxes` or `proposal_boxes`.
    """
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    name = next((n for n in ("pred_boxes", "proposal_boxes") if scaled.has(n)), None)
    if name is None:
        raise ValueError("detector_postprocess needs a field 'pred_boxes' or 'proposal_boxes'.")
    boxes: Boxes = scaled.get(name).clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(scaled.image_size)
    scaled.set(name, boxes)
    return scaled[boxes.nonempty()]
