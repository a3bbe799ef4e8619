"""Boxes on images: distinguishable colours, and readable labels that are not cut off."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cvpods.utils.visualize import PALETTE, class_color, draw_boxes, text_color, tile

WHITE = (255, 255, 255)


def rgb(color):
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def linear(color):
    """Return the linear light of "#RRGGBB", as WCAG 2 and sRGB define it."""
    values = np.array(rgb(color)) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(color, other):
    """Return WCAG 2's (L1 + 0.05) / (L2 + 0.05), L = 0.2126 R + 0.7152 G + 0.0722 B."""
    light = sorted(float(linear(c) @ (0.2126, 0.7152, 0.0722)) for c in (color, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


def plain(height, width, value=60):
    return torch.full((3, height, width), value, dtype=torch.uint8)


def pixel(image, x, y):
    return tuple(image[:, y, x].tolist())


def draw(image, *boxes, labels=None, names=("cat", "dog"), scores=None, min_size=1):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = [0] * len(boxes) if labels is None else labels
    return draw_boxes(image, boxes, labels, names, scores, min_size)


def test_hand_case():
    """Lines are max(2, 400 / 300) = 2 pixels wide, with a white line on either side.

    The left side of a box that begins at x = 100: 99 white, 100 and 101 coloured, 102 white.
    """
    drawn = draw(plain(400, 400), [100, 100, 300, 200], labels=[1])
    assert drawn.shape == (3, 400, 400) and drawn.dtype == torch.uint8
    color, ground = rgb(class_color(1)), (60, 60, 60)
    row = [pixel(drawn, x, 150) for x in range(98, 104)]
    assert row == [ground, WHITE, color, color, WHITE, ground]
    row = [pixel(drawn, x, 150) for x in range(302, 296, -1)]
    assert row == [ground, WHITE, color, color, WHITE, ground]
    column = [pixel(drawn, 200, y) for y in range(202, 196, -1)]
    assert column == [ground, WHITE, color, color, WHITE, ground]


@pytest.mark.parametrize("color", PALETTE)
def test_text_is_readable_on_every_colour(color):
    """4.5 is WCAG's lowest contrast for text (AA)."""
    chosen = {"black": "#000000", "white": "#FFFFFF"}[text_color(color)]
    assert contrast(color, chosen) >= 4.5


@pytest.mark.parametrize(
    "color", ["#000000", "#FFFFFF", "#0000FF", "#00FF00", "#757575", "#767676"]
)
def test_text_has_the_higher_contrast(color):
    """On #757575, white has 4.61 and black 4.56; on #767676, 4.54 and 4.62."""
    higher = max(("black", "#000000"), ("white", "#FFFFFF"), key=lambda c: contrast(color, c[1]))
    assert text_color(color) == higher[0]


# Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB.
SIGHTS = {
    "common": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def lab(light):
    """Return CIE L*a*b* of linear RGB, white D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ light.clip(0, 1) / (0.9505, 1, 1.089)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_can_be_told_apart(sight):
    """A difference of 2.3 is just visible; the usual ten plot colours reach 4.6 and 7.3."""
    seen = [lab(SIGHTS[sight] @ linear(color)) for color in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def test_a_class_keeps_its_colour():
    assert [class_color(i) for i in range(7)] == list(PALETTE)
    assert class_color(7) == class_color(0) and class_color(79) == class_color(79 % 7)


def test_classes_have_their_own_colours():
    drawn = draw(plain(400, 400), [20, 50, 90, 90], [150, 50, 250, 90], labels=[0, 1])
    assert pixel(drawn, 20, 75) == rgb(class_color(0))
    assert pixel(drawn, 150, 75) == rgb(class_color(1))


def ink(drawn, label=0):
    """Count the pixels of the full text colour, which only text has on the grey background."""
    wanted = {"black": 0, "white": 255}[text_color(class_color(label))]
    return int((drawn == wanted).all(dim=0).sum())


@pytest.mark.parametrize("size", [(400, 400), (300, 500), (1000, 700)])
def test_labels_lie_inside_the_picture(size):
    """Any position of the box shows as many text pixels as the middle of the picture."""
    height, width = size
    middle = [width // 2 - 40, height // 2 - 40, width // 2 + 40, height // 2 + 40]
    expected = ink(draw(plain(*size), middle, names=["a long name"], scores=[0.87]))
    assert expected > 50
    for x, y in itertools.product((0, 1, width - 30, width - 1), (0, 5, height - 30, height - 1)):
        box = [x, y, min(x + 60, width), min(y + 60, height)]
        drawn = draw(plain(*size), box, names=["a long name"], scores=[0.87])
        assert ink(drawn) == expected, box


def test_boxes_beyond_the_border_have_their_label_inside():
    expected = ink(draw(plain(400, 400), [100, 100, 300, 300]))
    for box in ([-50, 100, 100, 200], [350, 100, 500, 200]):
        assert ink(draw(plain(400, 400), box)) == expected, box


def test_label_stands_above_the_box_or_inside_it():
    """The label is above the box, so that the object is visible, or below the edge if need be."""
    high = draw(plain(400, 400), [100, 200, 200, 300])
    assert ink(high[:, :200]) == ink(high) > 0
    low = draw(plain(400, 400), [100, 3, 200, 100])
    assert ink(low[:, 3:100]) == ink(low) > 0


def test_score_has_two_decimals():
    box = [100, 100, 300, 300]
    drawn = draw(plain(400, 400), box, names=["cat"], scores=[0.8749])
    assert torch.equal(drawn, draw(plain(400, 400), box, names=["cat 0.87"]))
    assert not torch.equal(drawn, draw(plain(400, 400), box, names=["cat"]))


def test_the_image_is_not_changed():
    image, box = plain(400, 400), torch.tensor([[100.0, 100.0, 300.0, 300.0]])
    draw_boxes(image, box, [0], ["cat"])
    assert (image == 60).all()
    assert box.tolist() == [[100, 100, 300, 300]]


@pytest.mark.parametrize("min_size", [1, 400])
def test_no_boxes(min_size):
    """The picture is only enlarged, and it is a copy."""
    image = plain(200, 300)
    drawn = draw(image, scores=[], min_size=min_size)
    assert drawn.shape == ((3, 200, 300) if min_size == 1 else (3, 400, 600))
    assert (drawn == 60).all()
    drawn.zero_()
    assert (image == 60).all()


def test_small_images_are_enlarged_and_their_boxes_too():
    """Short side 40 -> 400: factor 10. The box's left side goes from 5 to 50, its top to 150."""
    image = plain(40, 60)
    image[:, 30:, 20:] = 200
    drawn = draw(image, [5, 15, 25, 25], min_size=400)
    assert drawn.shape == (3, 400, 600)
    assert pixel(drawn, 590, 390) == (200,) * 3 and pixel(drawn, 100, 390) == (60,) * 3
    color = rgb(class_color(0))
    assert pixel(drawn, 50, 200) == color and pixel(drawn, 249, 200) == color
    assert pixel(drawn, 200, 150) == color and pixel(drawn, 200, 249) == color
    assert pixel(drawn, 5, 20) == (60,) * 3


def test_large_images_keep_their_size():
    assert draw(plain(401, 500), [1, 1, 50, 50], min_size=400).shape == (3, 401, 500)


def test_long_thin_images_are_enlarged_less():
    """40 x 1000: a factor of 10 would give a long side of 10000 pixels; 2 gives 2000."""
    assert draw(plain(40, 1000), [1, 1, 50, 20], min_size=400).shape == (3, 80, 2000)
    assert draw(plain(3000, 2), [0, 1, 2, 20], min_size=400).shape == (3, 3000, 2)


@pytest.mark.parametrize("box", [[50, 50, 50, 50], [50, 50, 51, 90], [0, 0, 400, 400]])
def test_boxes_of_any_size(box):
    assert not torch.equal(draw(plain(400, 400), box), plain(400, 400))


def test_lines_and_text_grow_with_the_picture():
    """At 1200 pixels, a line is 1200 / 300 = 4 pixels wide."""
    drawn = draw(plain(1200, 1200), [500, 500, 900, 900])
    color = rgb(class_color(0))
    assert [pixel(drawn, x, 700) for x in range(499, 505)] == [WHITE, *[color] * 4, WHITE]
    assert ink(drawn) > 2 * ink(draw(plain(400, 400), [100, 100, 300, 300]))


def test_as_many_labels_as_boxes():
    with pytest.raises(ValueError):
        draw(plain(400, 400), [1, 1, 50, 50], labels=[0, 1])


def test_tile_by_hand():
    """Gaps of 2 all around: width 2 + 10 + 2 + 20 + 2 = 36, height 2 + 5 + 2 + 8 + 2 = 19."""
    sheet = tile([[plain(5, 10), plain(4, 20)], [plain(8, 6)]], gap=2)
    assert sheet.size == (36, 19)
    for place, value in {(2, 2): 60, (11, 6): 60, (12, 2): 255, (14, 6): 255, (2, 9): 60}.items():
        assert sheet.getpixel(place) == (value,) * 3, place
