"""Drawing of alignment maps: panels, titles, scales, surroundings, and the rendered picture."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from cvpods.utils.visualize import class_color
from cvpods_ext.analysis.alignment import Alignment
from cvpods_ext.analysis.drawing import Block, Objects, draw_alignment

MAPS = ["classification", "regression"]
BOTH = [*MAPS, "auto_assign", "feature_align"]


def maps(height=20, width=30, level="p4", **values):
    """Return maps with one value each in the middle third of the rows, 0 elsewhere."""
    heats = {name: torch.zeros(height, width) for name in BOTH}
    for name, heat in heats.items():
        heat[height // 3 : -(height // 3)] = values.get(name, 0.5)
    return Alignment(level, **heats)


def objects_of(*boxes):
    count = len(boxes)
    labels = [f"thing {i}" for i in range(count)]
    return Objects(torch.tensor(boxes, dtype=torch.float32), torch.arange(count), labels)


def grey(height=40, width=60, value=100):
    return np.full((height, width, 3), value, np.uint8)


def rows_of(figure, count):
    """Return the figure's axes, row by row."""
    columns = len(figure.axes) // count
    return [figure.axes[i * columns : (i + 1) * columns] for i in range(count)]


def rendered(figure):
    """Return the picture (H, W, 3), and (top, bottom, left, right) of each axes in it."""
    file = io.BytesIO()
    figure.savefig(file, dpi=60, format="png")
    figure.set_dpi(60)
    figure.canvas.draw()
    with Image.open(file) as opened:
        pixels = np.array(opened.convert("RGB")).astype(int)
    places = []
    for axes in figure.axes:
        box = axes.get_window_extent()
        places.append([len(pixels) - box.y1, len(pixels) - box.y0, box.x0, box.x1])
    return pixels, [[round(float(value)) for value in place] for place in places]


def one_block(count=1, fields=BOTH, name="tiny", **values):
    return Block(name, fields, [maps(**values) for _ in range(count)])


def test_one_model():
    """Each object has a row: image and four maps. Titles are in the first row only."""
    objects = objects_of([10, 10, 30, 20], [30, 5, 50, 35], [0, 0, 60, 40])
    figure = draw_alignment(grey(), objects, [one_block(3)])
    rows = rows_of(figure, 3)
    assert [[axes.get_title() for axes in row] for row in rows] == [
        [
            "thing 0",
            "tiny\nclassification",
            "regression quality",
            "weight, AutoAssign",
            "weight, FeatureAlign",
        ],
        ["thing 1", "", "", "", ""],
        ["thing 2", "", "", "", ""],
    ]
    assert not any(list(axes.get_xticks()) + list(axes.get_yticks()) for axes in figure.axes)


def test_two_models():
    """Three columns of each, under the model's name; each shows its own maps and level."""
    blocks = [
        Block("first", BOTH[:3], [maps(level="p3"), maps(level="p5")]),
        Block("second", [*MAPS, "feature_align"], [maps(level="p6"), maps(level="p7")]),
    ]
    figure = draw_alignment(grey(), objects_of([10, 10, 30, 20], [0, 0, 60, 40]), blocks)
    rows = rows_of(figure, 2)
    assert [len(row) for row in rows] == [7, 7]
    assert [axes.get_title() for axes in rows[0][1:]] == [
        "first\nclassification",
        "regression quality",
        "weight, AutoAssign",
        "second\nclassification",
        "regression quality",
        "weight, FeatureAlign",
    ]
    levels = [[axes.texts[0].get_text().split(",")[0] for axes in row[1:]] for row in rows]
    assert levels == [["p3"] * 3 + ["p6"] * 3, ["p5"] * 3 + ["p7"] * 3]


def test_corner_texts_and_scales():
    """Colours go from 0 to the row's maximum of a kind; where a map is 0, nothing is shown.

    Both weights are of one kind: 0.00456 and 0.5 share the scale to 0.5.
    """
    values = {"classification": 0.123, "regression": 0.5, "auto_assign": 0.00456}
    figure = draw_alignment(grey(), objects_of([10, 10, 30, 20]), [one_block(**values)])
    shown = figure.axes[1:]
    texts = [[text.get_text() for text in axes.texts] for axes in shown]
    expected = ["p4, max 0.12", "p4, max 0.5", "p4, max 0.0046", "p4, max 0.5"]
    assert texts == [[text] for text in expected]
    for axes, top in zip(shown, (0.123, 0.5, 0.00456, 0.5), strict=True):
        below, heat = axes.images
        assert heat.get_clim() == pytest.approx((0, 0.123 if top == 0.123 else 0.5))
        array = np.ma.masked_array(heat.get_array())
        assert array.shape == (20, 30) and array.max() == pytest.approx(top)
        assert array.mask[:6].all() and array.mask[-6:].all() and not array.mask[6:-6].any()
        # The map may be of another size: both cover the image's pixels.
        assert list(below.get_extent()) == list(heat.get_extent()) == [0, 60, 40, 0]
        assert below.get_clim() == (0, 255)


def cross_of(heat):
    """Return (x, y) of the cross in a map of 20 x 30 cells of 2 pixels."""
    block = Block("tiny", ["classification"], [maps()._replace(classification=heat)])
    figure = draw_alignment(grey(), objects_of([0, 0, 60, 40]), [block])
    (line,) = figure.axes[1].lines
    return line.get_xdata()[0], line.get_ydata()[0]


def test_the_cross_is_where_the_maximum_is():
    """In the middle of one block of the largest value; of two such blocks, in one of them."""
    heat = torch.full((20, 30), 0.1)
    heat[3:6, 9:14] = 0.7
    assert cross_of(heat) == (23, 9)
    heat = torch.full((20, 30), 0.1)
    heat[5, 2] = heat[5, 26] = 0.7
    x, y = cross_of(heat)
    assert x in (5, 53) and y == 11


def test_each_map_is_in_its_column():
    values = dict(zip(BOTH, (0.1, 0.2, 0.3, 0.4), strict=True))
    figure = draw_alignment(grey(), objects_of([10, 10, 30, 20]), [one_block(**values)])
    tops = [float(np.ma.max(axes.images[1].get_array())) for axes in figure.axes[1:]]
    assert tops == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_each_object_is_in_its_row():
    objects = objects_of([10, 10, 30, 20], [30, 5, 50, 35])
    block = Block("tiny", MAPS, [maps(regression=0.25), maps(regression=0.75)])
    rows = rows_of(draw_alignment(grey(), objects, [block]), 2)
    for row, box, top in zip(rows, objects.boxes.tolist(), (0.25, 0.75), strict=True):
        assert float(np.ma.max(row[2].images[1].get_array())) == top
        for axes in row:
            (outline,) = axes.patches
            corners = outline.get_xy(), (outline.get_width(), outline.get_height())
            assert corners == ((box[0], box[1]), (box[2] - box[0], box[3] - box[1]))
            assert not outline.get_fill()


def test_first_panel_is_the_whole_image():
    image = grey()
    image[:, :20] = (200, 50, 0)
    objects = objects_of([10, 10, 30, 20], [30, 5, 50, 35])
    for i, row in enumerate(rows_of(draw_alignment(image, objects, [one_block(2)]), 2)):
        (picture,) = row[0].images
        assert (np.asarray(picture.get_array()) == image).all()
        assert row[0].get_xlim() == (-0.5, 59.5) and row[0].get_ylim() == (39.5, -0.5)
        color = tuple(int(class_color(i)[k : k + 2], 16) / 255 for k in (1, 3, 5))
        assert row[0].patches[0].get_edgecolor()[:3] == pytest.approx(color)


@pytest.mark.parametrize(
    ("box", "columns", "rows"),
    [
        # A quarter of the long side around the box, at least 4 pixels, within the image.
        ([20, 10, 40, 22], (15, 45), (5, 27)),
        ([26, 16, 34, 20], (22, 38), (12, 24)),
        ([0, 0, 20, 12], (0, 25), (0, 17)),
        ([40, 28, 60, 40], (35, 60), (23, 40)),
        ([0, 0, 60, 40], (0, 60), (0, 40)),
        ([59.5, 39.5, 60, 40], (55.5, 60), (35.5, 40)),
        ([0, 0, 0.25, 0.25], (0, 4.25), (0, 4.25)),
        ([-30, -20, 10, 10], (0, 20), (0, 20)),  # annotated beyond the image
        ([50, 30, 90, 80], (37.5, 60), (17.5, 40)),
    ],
)
def test_surroundings(box, columns, rows):
    """x to the right, y downwards, also at the borders of the image."""
    figure = draw_alignment(grey(), objects_of(box), [one_block()])
    for axes in figure.axes[1:]:
        assert axes.get_xlim() == pytest.approx(columns)
        assert axes.get_ylim() == pytest.approx(rows[::-1])


@pytest.mark.parametrize(
    "box", [[70, 10, 90, 20], [10, 50, 20, 70], [64, 10, 70, 20], [-30, 10, -4, 20], [2, -9, 6, -4]]
)
def test_surroundings_of_a_box_outside_the_image(box):
    """Some pixels are shown, x to the right and y downwards: an annotation may lie there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_alignment(grey(), objects_of(box), [one_block()])
    for axes in figure.axes[1:]:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert left < right and top < bottom


def test_object_without_a_location():
    """If all maps are 0, the picture says so and shows the grey image alone."""
    zero = dict.fromkeys(BOTH, 0.0)
    figure = draw_alignment(grey(), objects_of([10, 10, 30, 20]), [one_block(**zero)])
    for axes in figure.axes[1:]:
        assert axes.texts[0].get_text() == "no location inside"
        assert len(axes.images) == 1
    pixels, places = rendered(figure)
    for top, bottom, left, right in places[1:]:
        panel = pixels[top + 3 : bottom - 3, left + 3 : right - 3]
        assert (panel.max(axis=2) - panel.min(axis=2) < 3).mean() > 0.95


def test_rendered():
    """The map's middle third is coloured, the rest is the grey image; boxes are outlined.

    Two rows of five panels side by side, none overlapping another.
    """
    objects = objects_of([2, 2, 58, 38], [5, 5, 50, 35])
    figure = draw_alignment(grey(), objects, [one_block(2)])
    pixels, places = rendered(figure)
    size = np.array(figure.get_size_inches()) * 60
    assert pixels.shape[1::-1] == tuple(size.astype(int))
    for row in (places[:5], places[5:]):
        assert all(a[3] < b[2] for a, b in zip(row[:-1], row[1:], strict=True))
        for top, bottom, left, right in row[1:]:
            assert bottom - top > 50 and right - left > 80
            middle = pixels[(top + bottom) // 2, left + 15 : right - 15]
            assert (middle.max(axis=1) - middle.min(axis=1) > 40).mean() > 0.9
            above = pixels[top + (bottom - top) // 5, left + 15 : right - 15]
            assert (np.abs(above - 100) < 3).all(axis=1).mean() > 0.8
    assert max(place[1] for place in places[:5]) < min(place[0] for place in places[5:])
    color = np.array([int(class_color(0)[k : k + 2], 16) for k in (1, 3, 5)])
    top, bottom, left, right = places[0]
    assert (np.abs(pixels[top:bottom, left:right] - color).max(axis=2) < 30).sum() > 50
