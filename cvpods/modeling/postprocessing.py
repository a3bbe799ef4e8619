"""From boxes of the resized image to boxes of the original one.

maskrcnn-benchmark, in which FreeAnchor's and ATSS' authors worked, takes (x2, y2) as the last pixel
inside a box: widths are x2 - x1 + 1. Such a box (x1, y1, x2, y2) is ours (x1, y1, x2 + 1, y2 + 1),
and with that, IoU, box coder and NMS compute the same. Two steps do not: it scales x2, not x2 + 1,
and it clips both corners to the last pixel. `scale_plus_one` and `clip_plus_one` do as it does.
"""

from __future__ import annotations

from torch import Tensor

from cvpods.structures import Boxes, Instances


def scale_plus_one(boxes: Tensor, scale_x: float, scale_y: float) -> Tensor:
    """Boxes (N, 4) scaled by maskrcnn-benchmark's arithmetic: x2 = (x2 - 1) * scale + 1."""
    last = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    return (boxes - last) * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y]) + last


def clip_plus_one(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) with first and last pixels inside (height, width): at least a pixel remains."""
    height, width = image_size
    low = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    return boxes.clamp(low, low + boxes.new_tensor([width, height, width, height]) - 1)


def detector_postprocess(
    results: Instances,
    output_height: int,
    output_width: int,
    mask_threshold: float = 0.5,
    plus_one: bool = False,
) -> Instances:
    """Scale the boxes of `results` to an image of the given size, clip, drop empty ones.

    `results` itself stays as it is. Boxes are in the field `pred_boxes` or `proposal_boxes`.

    Args:
        plus_one: scale by maskrcnn-benchmark's arithmetic, which does not clip again.
    """
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    name = next((n for n in ("pred_boxes", "proposal_boxes") if scaled.has(n)), None)
    if name is None:
        raise ValueError("detector_postprocess needs a field 'pred_boxes' or 'proposal_boxes'.")
    boxes: Boxes = scaled.get(name).clone()
    ratios = output_width / width, output_height / height
    if plus_one:
        boxes = Boxes(scale_plus_one(boxes.tensor, *ratios))
    else:
        boxes.scale(*ratios)
        boxes.clip(scaled.image_size)
    scaled.set(name, boxes)
    return scaled[boxes.nonempty()]
