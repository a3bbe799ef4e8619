"""read_image: any file becomes 8-bit channels in the requested order, or a clear error."""

import io

import numpy as np
import pytest
from PIL import Image

from cvpods.data.detection_utils import check_image_size, read_image
from cvpods.utils.errors import DataError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# 3 wide, 2 high; no flip or rotation maps it to itself.
PICTURE = np.array([[RED, GREEN, BLUE], [WHITE, (10, 20, 30), (0, 0, 0)]], dtype=np.uint8)


def save(folder, image, name="picture.png", **options):
    path = folder / name
    image.save(path, **options)
    return path


def noise(width=40, height=30, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "order, expected",
    [
        ("RGB", PICTURE),
        (None, PICTURE),
        ("BGR", PICTURE[..., ::-1]),
    ],
)
def test_channel_order(tmp_path, order, expected):
    image = read_image(save(tmp_path, Image.fromarray(PICTURE)), order)
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == np.uint8


def test_grey_values(tmp_path):
    """0.299 R + 0.587 G + 0.114 B: 255 x these are 76.2, 149.7 and 29.1."""
    image = read_image(save(tmp_path, Image.fromarray(PICTURE)), "L")
    assert image.shape == (2, 3, 1)
    assert image[0, :, 0].tolist() == [76, 150, 29]
    assert image[1, [0, 2], 0].tolist() == [255, 0]


def test_default_is_bgr_and_paths_may_be_strings(tmp_path):
    image = read_image(str(save(tmp_path, Image.fromarray(PICTURE))))
    assert image[0, 0].tolist() == [0, 0, 255]


def test_array_is_writable_and_contiguous(tmp_path):
    """torch.from_numpy warns about other arrays."""
    image = read_image(save(tmp_path, Image.fromarray(PICTURE)))
    assert image.flags.writeable and image.flags.c_contiguous and image.flags.aligned


@pytest.mark.parametrize("order", ["BGR", "RGB", "L"])
def test_grayscale_file(tmp_path, order):
    grey = np.array([[0, 100, 255]], dtype=np.uint8)
    image = read_image(save(tmp_path, Image.fromarray(grey)), order)
    assert image.shape == (1, 3, 1 if order == "L" else 3)
    assert all((image[..., c] == grey).all() for c in range(image.shape[2]))


def test_black_and_white_file(tmp_path):
    bits = Image.fromarray(np.array([[0, 255, 255]], dtype=np.uint8)).convert("1")
    assert read_image(save(tmp_path, bits))[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("name", ["picture.png", "picture.gif"])
def test_palette_file(tmp_path, name):
    """A palette represents the six colours of the picture exactly."""
    palette = Image.fromarray(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE)
    assert palette.mode == "P"
    np.testing.assert_array_equal(read_image(save(tmp_path, palette, name), "RGB"), PICTURE)


def test_palette_file_with_transparency(tmp_path):
    palette = Image.fromarray(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE)
    path = save(tmp_path, palette, transparency=0)
    np.testing.assert_array_equal(read_image(path, "RGB"), PICTURE)


def test_alpha_is_dropped(tmp_path):
    """Colours do not depend on alpha; they are not blended with black."""
    alpha = np.array([[255, 0, 128], [1, 254, 0]], dtype=np.uint8)
    with_alpha = Image.fromarray(np.dstack([PICTURE, alpha]))
    assert with_alpha.mode == "RGBA"
    np.testing.assert_array_equal(read_image(save(tmp_path, with_alpha), "RGB"), PICTURE)


def test_grey_with_alpha(tmp_path):
    grey = Image.fromarray(np.array([[7, 200]], dtype=np.uint8)).convert("LA")
    assert read_image(save(tmp_path, grey))[0].tolist() == [[7, 7, 7], [200, 200, 200]]


def test_cmyk_file(tmp_path):
    """No ink is white, full cyan has no red, full key is black."""
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(inks, mode="CMYK"), "picture.tif")
    assert read_image(path, "RGB")[0].tolist() == [[255, 255, 255], [0, 255, 255], [0, 0, 0]]


@pytest.mark.parametrize("name", ["picture.png", "picture.tif"])
def test_16_bits_keep_the_upper_8(tmp_path, name):
    """0, 255, 256, 32768, 65535 -> 0, 0, 1, 128, 255; not clipped at 255."""
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    image = read_image(save(tmp_path, Image.fromarray(values), name))
    assert image[0].tolist() == [[v] * 3 for v in (0, 0, 1, 128, 255)]


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([[0, 100, 255]], dtype=np.int32), [0, 100, 255]),
        (np.array([[0, 25600, 65535]], dtype=np.int32), [0, 100, 255]),
        (np.array([[0.0, 99.5, 255.0]], dtype=np.float32), [0, 99, 255]),
    ],
)
def test_32_bits(tmp_path, values, expected):
    """Values up to 255 stay; larger values are 16-bit values in a wider type."""
    path = save(tmp_path, Image.fromarray(values), "picture.tif")
    assert read_image(path)[0, :, 0].tolist() == expected


# Inverse of each EXIF orientation, on (H, W, C) arrays, for the content of the file.
ORIENTATIONS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation(tmp_path, orientation, order):
    """The file's rows are turned; the array is upright in either channel order.

    6 means "turn by 90 degrees clockwise to display", so the file holds the picture turned
    counter-clockwise; 8 is the reverse.
    """
    stored = np.ascontiguousarray(ORIENTATIONS[orientation](PICTURE))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(stored), exif=exif)
    expected = PICTURE if order == "RGB" else PICTURE[..., ::-1]
    np.testing.assert_array_equal(read_image(path, order), expected)


def test_orientation_of_a_jpeg(tmp_path):
    """40 x 30 stored, 30 x 40 displayed."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_image(save(tmp_path, noise(), "picture.jpg", exif=exif))
    assert image.shape == (40, 30, 3)


def test_orientation_out_of_range_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    image = read_image(save(tmp_path, Image.fromarray(PICTURE), exif=exif), "RGB")
    np.testing.assert_array_equal(image, PICTURE)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.png does not exist"):
        read_image(tmp_path / "nowhere.png")


def test_folder(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
@pytest.mark.parametrize("tenths", range(10))
def test_truncated_file(tmp_path, suffix, tenths):
    """The error names the file, whatever its remaining length; missing pixels are not filled."""
    path = save(tmp_path, noise(), f"cut.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * tenths // 10])
    with pytest.raises(DataError, match=rf"cut\.{suffix} cannot be read"):
        read_image(path)


@pytest.mark.parametrize(
    "bytes_",
    [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\x00" * 50, b"\xff\xd8\xff\xe0junk", b"GIF89a"],
)
def test_file_that_is_not_an_image(tmp_path, bytes_):
    path = tmp_path / "junk.jpg"
    path.write_bytes(bytes_)
    with pytest.raises(DataError, match=r"junk\.jpg cannot be read"):
        read_image(path)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about the damage
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damaged_bytes(tmp_path, monkeypatch, suffix):
    """A changed byte in the middle gives a picture or a DataError, but no other error."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    buffer = io.BytesIO()
    noise().save(buffer, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, "PNG"))
    whole = bytearray(buffer.getvalue())
    path = tmp_path / f"damaged.{suffix}"
    for place in np.random.default_rng(0).integers(0, len(whole), 60):
        damaged = whole.copy()
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert read_image(path).shape[2] == 3
        except DataError as error:
            assert str(path) in str(error)


def test_absurdly_large_image(tmp_path, monkeypatch):
    """Pillow refuses more than twice its limit; the error names the file and the key."""
    path = save(tmp_path, noise(), "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30 // 3)
    with pytest.raises(DataError, match=r"huge\.png .* raise INPUT\.MAX_PIXELS"):
        read_image(path)
    assert read_image(path, max_pixels=40 * 30).shape == (30, 40, 3)


def test_max_pixels(tmp_path, monkeypatch):
    """The key may be below Pillow's limit; without Pillow's limit, the key has no effect."""
    path = save(tmp_path, noise(), "large.png")
    with pytest.raises(DataError, match=r"1,200 pixels, more than INPUT\.MAX_PIXELS 1,199"):
        read_image(path, max_pixels=1199)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(path, max_pixels=1199).shape == (30, 40, 3)
    assert Image.MAX_IMAGE_PIXELS is None


@pytest.mark.parametrize("order", ["bgr", "YUV-BT.601", "", 3])
def test_unknown_order(tmp_path, order):
    with pytest.raises(DataError, match=f"INPUT.FORMAT.*{order!r}"):
        read_image(save(tmp_path, Image.fromarray(PICTURE)), order)


def test_check_image_size_fills_in_missing_sides():
    record = {"file_name": "a.png"}
    check_image_size(record, PICTURE)
    assert (record["height"], record["width"]) == (2, 3)
