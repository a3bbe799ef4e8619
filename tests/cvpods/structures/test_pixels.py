"""CONTINUOUS and LAST_PIXEL: scaling, clipping, half a pixel; the code's own loops are in
tests/cvpods_ext/methods/test_plus_one.py.
"""

import pytest
import torch

from cvpods.configs import RetinaNetConfig
from cvpods.structures import CONTINUOUS, LAST_PIXEL, Boxes, PixelConvention, geometry

BOXES = torch.tensor([[-5.0, -5, 3, 4], [15, 5, 40, 40], [30, 2, 35, 4]])
BOTH = pytest.mark.parametrize("pixels", [CONTINUOUS, LAST_PIXEL], ids=["continuous", "last"])


def test_config_key():
    config = RetinaNetConfig()
    assert PixelConvention.from_config(config) is CONTINUOUS
    config.MODEL.PLUS_ONE = True
    assert PixelConvention.from_config(config) is LAST_PIXEL


def test_continuous_scale():
    """Twice as wide, half as high."""
    boxes = torch.tensor([[2.0, 3, 10, 6]])
    assert CONTINUOUS.scale(boxes, 2.0, 0.5).tolist() == [[4, 1.5, 20, 3]]
    same = Boxes(boxes.clone())
    same.scale(2.0, 0.5)
    assert torch.equal(CONTINUOUS.scale(boxes, 2.0, 0.5), same.tensor)


def test_last_pixel_scale():
    """Pixels 2 ... 9 and 3 ... 5 become 4 ... 18 and 1.5 ... 2.5, stored with 1 more."""
    boxes = torch.tensor([[2.0, 3, 10, 6]])
    assert LAST_PIXEL.scale(boxes, 2.0, 0.5).tolist() == [[4, 1.5, 19, 3.5]]


def test_continuous_clip():
    """Into height 10, width 20; the last box lies beside the image and becomes empty."""
    expected = [[0, 0, 3, 4], [15, 5, 20, 10], [20, 2, 20, 4]]
    assert CONTINUOUS.clip(BOXES, 10, 20).tolist() == expected
    assert torch.equal(CONTINUOUS.clip(BOXES, 10, 20), geometry.clip(BOXES, 10, 20))


def test_last_pixel_clip():
    """Into columns 0 ... 19 and rows 0 ... 9; the last box keeps the pixel at the border."""
    expected = [[0, 0, 3, 4], [15, 5, 20, 10], [19, 2, 20, 4]]
    assert LAST_PIXEL.clip(BOXES, 10, 20).tolist() == expected


@BOTH
def test_clip_to_several_sizes(pixels):
    """A tensor of sizes gives every image of a batch its own."""
    sizes = torch.tensor([[10, 20], [4, 8]])
    clipped = pixels.clip(BOXES.expand(2, 3, 4), *sizes[:, None].unbind(-1))
    for image, (height, width) in zip(clipped, sizes.tolist(), strict=True):
        assert torch.equal(image, pixels.clip(BOXES, height, width))


@pytest.mark.parametrize(("pixels", "half"), [(CONTINUOUS, 0.0), (LAST_PIXEL, 0.5)])
def test_half_a_pixel(pixels, half):
    boxes = torch.tensor([[2.0, 3, 10, 6]])
    assert pixels.inset(boxes).tolist() == [[2 + half, 3 + half, 10 - half, 6 - half]]
    assert torch.equal(pixels.outset(pixels.inset(boxes)), boxes)
    assert pixels.inside == (half + 0.01 if half else 0.0)


@BOTH
def test_no_boxes(pixels):
    nothing = torch.zeros(0, 4)
    for result in (
        pixels.scale(nothing, 2.0, 3.0),
        pixels.clip(nothing, 4, 6),
        pixels.inset(nothing),
        pixels.outset(nothing),
    ):
        assert result.shape == (0, 4)


def test_frozen():
    with pytest.raises(AttributeError):
        CONTINUOUS.last = 1.0  # type: ignore[misc] - that is the point of the test
