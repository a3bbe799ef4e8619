"""resize_bilinear: torchvision's resize, bit for bit."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from cvpods.data.transforms import resize
from cvpods.data.transforms.resize import resize_bilinear


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int16"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(7, 5), (40, 64), (33, 90), (1, 1)])
def test_it_is_torchvision_s(dtype, channels, size):
    generator = np.random.default_rng(0)
    for height, width in ((40, 60), (1, 9), (17, 3)):
        image = generator.integers(0, 256, (height, width, channels)).astype(dtype)
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        expected = functional.resize(tensor, list(size)).permute(1, 2, 0).numpy()
        resized = resize_bilinear(image, *size)
        assert resized.dtype == expected.dtype and np.array_equal(resized, expected)


def test_without_a_kernel_for_8_bits(monkeypatch):
    """The result is that of floats, rounded."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    expected = resize_bilinear(image.astype(np.float32), 9, 40).round().astype(np.uint8)
    monkeypatch.setattr(resize, "_has_uint8_kernel", lambda: False)
    assert np.array_equal(resize_bilinear(image, 9, 40), expected)
