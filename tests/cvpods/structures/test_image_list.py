"""ImageList: images of several sizes in one padded batch."""

import pytest
import torch

from cvpods.structures import ImageList


def images(*sizes, channels=3):
    """Images of the given (height, width) without a zero in them."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(channels, *size, generator=generator) + 1 for size in sizes]


@pytest.mark.parametrize(
    ("divisibility", "expected"),
    [(0, (6, 7)), (1, (6, 7)), (2, (6, 8)), (4, (8, 8)), (32, (32, 32))],
)
def test_padded_size(divisibility, expected):
    """Heights 4 and 6, widths 7 and 5: at least (6, 7), rounded up to multiples."""
    batch = ImageList.from_tensors(images((4, 7), (6, 5)), divisibility)
    assert batch.tensor.shape == (2, 3, *expected)
    assert batch.image_sizes == [(4, 7), (6, 5)] and len(batch) == 2


def test_multiple_is_not_padded_further():
    assert ImageList.from_tensors(images((32, 64)), 32).tensor.shape == (1, 3, 32, 64)


@pytest.mark.parametrize("pad_ref_long", [False, True])
@pytest.mark.parametrize("divisibility", [0, 4])
def test_crop_round_trip(divisibility, pad_ref_long):
    originals = images((4, 7), (6, 5), (1, 1))
    batch = ImageList.from_tensors(originals, divisibility, pad_ref_long)
    for index, original in enumerate(originals):
        assert torch.equal(batch[index], original)
    assert torch.equal(batch[-1], originals[-1])


def test_padding_is_right_and_bottom():
    batch = ImageList.from_tensors(images((2, 3), (4, 3)), pad_value=-5.0)
    assert (batch.tensor[0, :, 2:] == -5).all() and (batch.tensor[0, :, :2] >= 1).all()
    assert (ImageList.from_tensors(images((2, 3)), 4).tensor[0, :, :, 3] == 0).all()


@pytest.mark.parametrize(("divisibility", "side"), [(0, 7), (4, 8)])
def test_pad_ref_long_is_square(divisibility, side):
    batch = ImageList.from_tensors(images((4, 7), (6, 5)), divisibility, pad_ref_long=True)
    assert batch.tensor.shape == (2, 3, side, side)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_type_is_kept(dtype):
    batch = ImageList.from_tensors([image.to(dtype) for image in images((2, 3), (3, 2))])
    assert batch.tensor.dtype == dtype


def test_gradient_passes_through():
    originals = [image.requires_grad_() for image in images((2, 3), (3, 2))]
    ImageList.from_tensors(originals, 4).tensor.sum().backward()
    assert all((image.grad == 1).all() for image in originals)


def test_to_and_device():
    batch = ImageList.from_tensors(images((2, 3)), 4).to("meta")
    assert batch.device.type == "meta" and batch.image_sizes == [(2, 3)]
    assert ImageList.from_tensors(images((2, 3))).to(torch.float64).tensor.dtype == torch.float64


def test_index_error():
    with pytest.raises(IndexError):
        ImageList.from_tensors(images((2, 3)))[1]
