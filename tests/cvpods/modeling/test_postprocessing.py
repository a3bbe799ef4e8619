"""detector_postprocess: boxes of the resized image in the original one."""

import pytest
import torch

from cvpods.modeling.postprocessing import detector_postprocess
from cvpods.structures import Boxes, Instances


def detections(field="pred_boxes"):
    """Three boxes of a 100 x 200 (height x width) image; the last lies on the right edge."""
    boxes = Boxes([[0, 0, 100, 50], [-10, 20, 300, 120], [200, 0, 230, 50]])
    return Instances(
        (100, 200), **{field: boxes}, scores=torch.tensor([0.9, 0.8, 0.7]), names=["a", "b", "c"]
    )


@pytest.mark.parametrize("field", ["pred_boxes", "proposal_boxes"])
def test_scale_clip_and_drop(field):
    """To height 50 and width 400: y halves, x doubles; clipped to 400 x 50, the last is empty.

    (0, 0, 100, 50) -> (0, 0, 200, 25).
    (-10, 20, 300, 120) -> (-20, 10, 600, 60) -> (0, 10, 400, 50).
    """
    result = detector_postprocess(detections(field), 50, 400)
    assert result.image_size == (50, 400)
    assert result.get(field).tensor.tolist() == [[0, 0, 200, 25], [0, 10, 400, 50]]
    assert result.scores.tolist() == pytest.approx([0.9, 0.8]) and result.names == ["a", "b"]


def test_input_stays_as_it_is():
    results = detections()
    before = results.pred_boxes.tensor.clone()
    detector_postprocess(results, 50, 400)
    assert torch.equal(results.pred_boxes.tensor, before) and len(results) == 3
    assert results.image_size == (100, 200)


def test_same_size_only_clips():
    result = detector_postprocess(detections(), 100, 200)
    assert result.pred_boxes.tensor.tolist() == [[0, 0, 100, 50], [0, 20, 200, 100]]


def test_no_detections():
    result = detector_postprocess(detections()[torch.zeros(3, dtype=torch.bool)], 50, 400)
    assert len(result) == 0 and result.pred_boxes.tensor.shape == (0, 4)
    assert result.image_size == (50, 400)


def test_boxes_are_needed():
    with pytest.raises(ValueError, match="'pred_boxes' or 'proposal_boxes'"):
        detector_postprocess(Instances((4, 4), scores=torch.ones(1)), 8, 8)
