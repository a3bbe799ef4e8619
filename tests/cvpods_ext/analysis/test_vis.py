"""pods_vis alignment: its panels, whose objects and weights they show, errors in one message."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cvpods.tools.common import open_experiment
from cvpods.tools.predictor import Predictor
from cvpods.utils.visualize import class_color
from cvpods_ext.analysis import vis
from cvpods_ext.analysis.alignment import Alignment, alignment_maps
from cvpods_ext.analysis.vis import Block, Objects, draw_alignment, main
from cvpods_ext.configs import fragments
from cvpods_ext.methods.auto_assign import AutoAssign
from cvpods_ext.methods.feature_align import FeatureAlign

ROOT = Path(__file__).resolve().parents[3]
MAPS = ["classification", "regression"]
BOTH = [*MAPS, "auto_assign", "feature_align"]

# -- the picture -----------------------------------------------------------------------------------


def maps(height=20, width=30, level="p4", **values):
    """Maps that hold one value each in the middle third of the rows, 0 elsewhere."""
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
    """The figure's axes, row by row."""
    columns = len(figure.axes) // count
    return [figure.axes[i * columns : (i + 1) * columns] for i in range(count)]


def rendered(figure):
    """The picture as (H, W, 3), and where each axes lies in it: (top, bottom, left, right)."""
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
    """A row per object: the image, four maps; titles in the first row, labels in every one."""
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
    """(x, y) of the cross in a map of 20 x 30 cells of 2 pixels."""
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
    """An annotation may lie there: some pixels are shown, x to the right and y downwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_alignment(grey(), objects_of(box), [one_block()])
    for axes in figure.axes[1:]:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert left < right and top < bottom


def test_object_without_a_location():
    """All maps are 0: the picture says so, and shows the grey image alone."""
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
    """In the map's middle third is colour, above and below it the grey image; boxes are outlined.

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


# -- the command -----------------------------------------------------------------------------------

NAMES = ["disc", "square", "triangle", "star", "ring", "cross"]
# first.png: 96 x 128 pixels, (x, y, width, height), category; empty.png has none.
FIRST = [([10, 20, 40, 30], 7), ([60, 5, 30, 60], 2), ([0, 50, 25, 46], 13)]
OVERRIDES = {
    **fragments.test_scale(64, 96),
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
}
KINDS = {"assign.tiny": AutoAssign, "align.tiny": FeatureAlign}
ATTENTION = {"NUM_LAYERS": 1, "NUM_HEADS": 2, "FEEDFORWARD_DIM": 16}


def noise(height, width, seed):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def write_shapes(root):
    """A data root with "shapes": first.png and empty.png for testing, other.png for training."""
    folder = root / "shapes"
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": i, "name": n} for i, n in zip((2, 3, 5, 7, 11, 13), NAMES, strict=True)]
    for split, names in (("val", ["first", "empty"]), ("train", ["other"])):
        (folder / split).mkdir()
        images = []
        for i, name in enumerate(names):
            noise(96, 128, i).save(folder / split / f"{name}.png")
            images.append({"id": i, "file_name": f"{name}.png", "height": 96, "width": 128})
        annotations = [
            {"id": i, "image_id": 0, "bbox": bbox, "category_id": c, "area": 1.0, "iscrowd": 0}
            for i, (bbox, c) in enumerate(FIRST)
        ]
        content = {"images": images, "categories": categories, "annotations": annotations}
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))


def make_experiment(root, name, source, overrides):
    """A copy of an experiment of the shapes with overrides, and weights whose scores spread."""
    folder = root / name
    folder.mkdir()
    config, net = ((ROOT / "playground" / source / f).read_text() for f in ("config.py", "net.py"))
    (folder / "config.py").write_text(f"{config}\nconfig.override({overrides!r})\n")
    (folder / "net.py").write_text(net)
    cfg, build_model = open_experiment(folder)
    torch.manual_seed(0)
    model = build_model(cfg)
    nn.init.zeros_(model.head.cls_score.bias)
    nn.init.normal_(model.head.cls_score.weight, std=0.1)
    (folder / "output").mkdir()
    torch.save({"model": model.state_dict()}, folder / "output" / "model_final.pth")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """data/shapes, and experiments of each method; nothing is written into it by a test."""
    root = tmp_path_factory.mktemp("vis")
    write_shapes(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CVPODS_DATASETS", str(root / "data"))
        make_experiment(root, "assign.tiny", "auto_assign.res18.shapes", OVERRIDES)
        narrow = {f"MODEL.FEATURE_ALIGN.ATTENTION.{k}": v for k, v in ATTENTION.items()}
        make_experiment(root, "align.tiny", "feature_align.res18.shapes", OVERRIDES | narrow)
        make_experiment(root, "atss.tiny", "atss.res18.shapes", OVERRIDES)
    return root


@pytest.fixture
def image(root):
    return root / "data/shapes/val/first.png"


class Shown:
    """What pods_vis gave to draw_alignment and to alignment_maps; a blank picture is written."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.saved = []
        monkeypatch.setattr(vis, "draw_alignment", self.draw)
        monkeypatch.setattr(vis, "alignment_maps", self.maps)

    def maps(self, model, images, boxes, classes):
        training = any(module.training for module in model.modules())
        self.calls.append((model, training, images, boxes, classes))
        return alignment_maps(model, images, boxes, classes)

    def draw(self, image, objects, blocks):
        self.image, self.objects, self.blocks = image, objects, blocks
        return self

    def savefig(self, path, **options):
        self.saved.append(Path(path))
        Image.new("RGB", (4, 4)).save(path)


@pytest.fixture
def shown(monkeypatch, root, tmp_path):
    """Inside a folder of its own, with the data at hand."""
    monkeypatch.setenv("CVPODS_DATASETS", str(root / "data"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    return Shown(monkeypatch)


def words(root, image, *more, of="assign.tiny"):
    """The command's words; pictures go into the current folder."""
    given = ["alignment", "--dir", root / of, "--input", image]
    if "--output" not in more and "OUTPUT_DIR" not in more:
        given += ["--output", "out.png"]
    return [str(word) for word in (*given, *more)]


def fails(capsys, argv, status=1):
    """Run; the one message on stderr that tells what is wrong (of usage: its last line)."""
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == status
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "| INFO" not in line and line.strip()]
    assert out == "" and "Traceback" not in err
    if status != 1:
        return lines[-1]
    assert lines[0].startswith("error: ") and err.count("error: ") == 1, err
    return "\n".join(lines)


def test_as_typed(root, tmp_path, run_command):
    """Inside an experiment's folder: OUTPUT_DIR/alignment.png, two rows of five panels."""
    folder = tmp_path / "mine.tiny"
    shutil.copytree(root / "assign.tiny", folder)
    image = root / "data/shapes/val/first.png"
    options = ["--weights", "output/model_final.pth", "--count", "2", "--score", "0.05"]
    command = ["pods_vis", "alignment", "--input", image, *options]
    result = run_command(command, folder, CVPODS_DATASETS=str(root / "data"))
    path = folder / "output" / "alignment.png"
    assert f"2 objects of {image}. Wrote {path}" in result.stderr
    assert "Warning" not in result.stderr and result.stdout == ""
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        assert opened.size == (2.4 * 5 * 110, round((2.3 * 2 + 0.5) * 110))
        pixels = np.array(opened.convert("RGB")).astype(int)
    assert (pixels.max(axis=2) - pixels.min(axis=2) > 60).mean() > 0.02
    assert sorted(p.name for p in (folder / "output").iterdir()) == [
        "alignment.png",
        "model_final.pth",
    ]


def test_both_methods_in_one_picture(root, image, monkeypatch, tmp_path):
    monkeypatch.setenv("CVPODS_DATASETS", str(root / "data"))
    options = ["--beside", root / "align.tiny", "--truth", "--count", "1", "--output", "new/x.png"]
    monkeypatch.chdir(tmp_path)
    main(words(root, image, *options))
    with Image.open(tmp_path / "new/x.png") as opened:
        assert opened.size == (round(2.4 * 7 * 110), round((2.3 + 0.5) * 110))


# -- which objects ---------------------------------------------------------------------------------


def test_detected_objects(root, image, shown):
    """The best ones, as Predictor finds them, with class and score."""
    main(words(root, image, "--score", "0", "--count", "3"))
    found = Predictor.from_experiment(root / "assign.tiny")(image)[:3]
    torch.testing.assert_close(shown.objects.boxes, found.pred_boxes.tensor)
    assert shown.objects.classes.tolist() == found.pred_classes.tolist()
    scores = zip(found.pred_classes.tolist(), found.scores.tolist(), strict=True)
    assert shown.objects.labels == [f"{NAMES[c]} {s:.2f}" for c, s in scores]
    assert (shown.image == np.array(Image.open(image).convert("RGB"))).all()
    assert shown.saved == [Path("out.png")]


def test_score(root, image, shown):
    """A score equal to the least one is enough; four objects unless --count says otherwise."""
    found = Predictor.from_experiment(root / "assign.tiny")(image)
    scores = found.scores.double().tolist()
    assert len(scores) > 4 and scores[2] < scores[1]
    main(words(root, image, "--score", repr(scores[1])))
    assert len(shown.objects.boxes) == 2
    main(words(root, image, "--score", "0"))
    assert len(shown.objects.boxes) == 4


def test_annotated_objects(root, image, shown):
    """--truth: in the order of the file, as corners, with the names of the data set."""
    main(words(root, image, "--truth"))
    expected = [[10, 20, 50, 50], [60, 5, 90, 65], [0, 50, 25, 96]]
    assert shown.objects.boxes.tolist() == expected
    assert shown.objects.labels == ["star", "disc", "cross"]
    assert shown.objects.classes.tolist() == [3, 0, 5]
    main(words(root, image, "--truth", "--count", "1"))
    assert shown.objects.boxes.tolist() == expected[:1]


def test_annotated_image_by_another_path(root, shown, monkeypatch, tmp_path):
    monkeypatch.chdir(root / "data")
    path = "shapes/train/../val/first.png"
    main(words(root, path, "--truth", "--output", tmp_path / "out.png"))
    assert shown.objects.labels == ["star", "disc", "cross"]


def test_data_set_of_the_overrides(root, shown):
    other = root / "data/shapes/train/other.png"
    main(words(root, other, "--truth", "DATASETS.TEST", "('shapes_train',)"))
    assert shown.objects.labels == ["star", "disc", "cross"]


# -- whose maps ------------------------------------------------------------------------------------


def test_objects_in_pixels_of_the_input(root, image, shown):
    """96 x 128 pixels become 64 x 85: boxes are scaled by 85 / 128 and 64 / 96."""
    main(words(root, image, "--truth"))
    ((model, _, images, boxes, classes),) = shown.calls
    scale = torch.tensor([85 / 128, 64 / 96] * 2)
    torch.testing.assert_close(boxes, shown.objects.boxes * scale)
    assert classes.tolist() == [3, 0, 5]
    assert images.image_sizes == [(64, 85)]
    assert {heat.shape for heat in shown.blocks[0].maps[0][1:]} == {(64, 85)}
    predictor = Predictor.from_experiment(root / "assign.tiny")
    expected = predictor.model.preprocess_image([predictor.prepare(image)])
    assert torch.equal(images.tensor, expected.tensor)


@pytest.mark.parametrize(
    ("of", "kind"), [("assign.tiny", AutoAssign), ("align.tiny", FeatureAlign)]
)
def test_one_experiment_shows_both_weights(root, image, shown, of, kind):
    main(words(root, image, "--truth", of=of))
    (block,) = shown.blocks
    assert (block.name, block.fields, len(block.maps)) == (of, BOTH, 3)
    assert type(shown.calls[0][0]) is kind
    for maps in block.maps:
        assert all(heat.max() > 0 for heat in maps[1:])


def test_inside_an_experiment(root, image, shown, monkeypatch, tmp_path):
    """Without --dir; the folder's name stands above its maps."""
    monkeypatch.chdir(root / "assign.tiny")
    out = str(tmp_path / "out.png")
    main(["alignment", "--input", str(image), "--truth", "--count", "1", "--output", out])
    assert [block.name for block in shown.blocks] == ["assign.tiny"]


@pytest.mark.parametrize("of", KINDS)
def test_model_is_in_evaluation(root, image, shown, of):
    """No statistics of the batch and no dropout: as in a test, and the same picture every time."""
    main(words(root, image, "--truth", of=of))
    ((_, training, *_),) = shown.calls
    assert not training
    cfg, build_model = open_experiment(root / of)
    model = build_model(cfg).eval()
    weights = torch.load(root / of / "output/model_final.pth", weights_only=True)
    model.load_state_dict(weights["model"])
    for name, value in shown.calls[0][0].state_dict().items():
        assert torch.equal(value, weights["model"][name]), name
    expected = alignment_maps(model, *shown.calls[0][2:])
    for maps, wanted in zip(shown.blocks[0].maps, expected, strict=True):
        torch.testing.assert_close(torch.stack(maps[1:]), torch.stack(wanted[1:]))


@pytest.mark.parametrize("of", KINDS)
def test_beside(root, image, shown, of):
    """Two models, each with its own weight alone; objects are the first one's."""
    other = {"assign.tiny": "align.tiny", "align.tiny": "assign.tiny"}[of]
    own = {"assign.tiny": "auto_assign", "align.tiny": "feature_align"}
    main(words(root, image, "--truth", "--beside", root / other, of=of))
    named = [(block.name, block.fields) for block in shown.blocks]
    assert named == [(name, [*MAPS, own[name]]) for name in (of, other)]
    assert torch.equal(shown.calls[0][3], shown.calls[1][3])
    assert [type(call[0]) for call in shown.calls] == [KINDS[of], KINDS[other]]
    first, second = (torch.stack(block.maps[0][1:]) for block in shown.blocks)
    assert not torch.equal(first, second)


def other_weights(root, tmp_path, **values):
    """A copy of AutoAssign's weights with one tensor replaced."""
    content = torch.load(root / "assign.tiny/output/model_final.pth", weights_only=True)
    content["model"] |= values
    path = tmp_path / "other.pth"
    torch.save(content, path)
    return path


def test_weights_of_each(root, image, shown, tmp_path):
    """--weights is the first one's, --beside-weights the other one's; else each its newest."""
    path = other_weights(root, tmp_path, mu=torch.full((6, 2), 0.125))
    beside = ["--truth", "--beside", root / "assign.tiny"]
    for options, expected in [
        (["--weights", path], [0.125, 0]),
        (["--beside-weights", path], [0, 0.125]),
    ]:
        shown.calls.clear()
        main(words(root, image, *beside, *options))
        assert [call[0].mu[0, 0].item() for call in shown.calls] == expected


def test_overrides(root, image, shown, tmp_path):
    """KEY VALUE pairs also between flags; they decide where the picture goes."""
    weights = other_weights(root, tmp_path, mu=torch.full((6, 2), 0.125))
    pairs = ["MODEL.AUTO_ASSIGN.REG_WEIGHT", "1.5", "OUTPUT_DIR", tmp_path / "runs"]
    main(words(root, image, *pairs, "--truth", "MODEL.WEIGHTS", weights))
    ((model, *_),) = shown.calls
    assert model.loss["reg_weight"] == 1.5 and model.mu[0, 0] == 0.125
    assert shown.saved == [tmp_path / "runs" / "alignment.png"]


def test_augmented_test(root, image, shown):
    """TEST.AUG wraps the detector for tests; the maps are of the detector itself, one scale."""
    main(words(root, image, "--truth", "TEST.AUG.ENABLED", "True"))
    assert type(shown.calls[0][0]) is AutoAssign


# -- errors ----------------------------------------------------------------------------------------


def test_missing_and_unreadable_images(root, shown, capsys, tmp_path):
    assert "nowhere.png does not exist" in fails(capsys, words(root, "nowhere.png"))
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png cannot be read" in fails(capsys, words(root, "text.png"))
    assert "cannot be read" in fails(capsys, words(root, tmp_path))
    assert shown.saved == []


def test_no_object_of_that_score(root, image, shown, capsys):
    line = fails(capsys, words(root, image, "--score", "0.99"))
    assert f"No object of score >= 0.99 in {image}: lower --score, or --truth" in line


def test_images_without_truth(root, image, shown, capsys, tmp_path):
    copy = shutil.copy(image, tmp_path / "first.png")
    line = fails(capsys, words(root, copy, "--truth"))
    assert f"--truth: {copy} is no image of 'shapes_val'" in line
    empty = root / "data/shapes/val/empty.png"
    assert f"{empty} has no annotated object" in fails(capsys, words(root, empty, "--truth"))


def test_crowds_are_no_objects(root, image, shown, monkeypatch, tmp_path):
    """The first of three annotations is one: nothing is trained on it."""
    data = shutil.copytree(root / "data", tmp_path / "data")
    path = data / "shapes/annotations/instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    monkeypatch.setenv("CVPODS_DATASETS", str(data))
    main(words(root, data / "shapes/val/first.png", "--truth", "--count", "2"))
    assert shown.objects.labels == ["disc", "cross"]


@pytest.mark.parametrize("options", [["--truth"], ["--score", "0.99"]])
def test_other_detectors(root, image, shown, capsys, options):
    """Also where they find nothing: no other score would help."""
    line = fails(capsys, words(root, image, *options, of="atss.tiny"))
    assert "AutoAssign and FeatureAlign; this model is ATSS" in line


def test_other_detector_beside(root, image, shown, capsys):
    options = ["--truth", "--beside", root / "atss.tiny"]
    assert "this model is ATSS" in fails(capsys, words(root, image, *options))


def test_other_classes_beside(root, image, shown, capsys, tmp_path):
    """The checkpoint's own names count."""
    path = tmp_path / "other.pth"
    content = torch.load(root / "align.tiny/output/model_final.pth", weights_only=True)
    torch.save({**content, "thing_classes": [*NAMES[:5], "heart"]}, path)
    beside = ["--truth", "--beside", root / "align.tiny", "--beside-weights", path]
    line = fails(capsys, words(root, image, *beside))
    assert "align.tiny knows other classes than" in line and "'heart'" in line


def test_no_experiment_and_no_checkpoint(root, image, shown, capsys, tmp_path):
    assert "is not an experiment" in fails(capsys, ["alignment", "--input", str(image)])
    line = fails(capsys, words(root, image, "--beside", tmp_path, "--truth"))
    assert f"{tmp_path} is not an experiment" in line
    line = fails(capsys, words(root, image, "OUTPUT_DIR", tmp_path))
    assert f"{tmp_path} has no checkpoint" in line and "--weights x.pth" in line
    line = fails(capsys, words(root, image, "--truth", "--beside-weights", "x.pth"))
    assert "--beside-weights needs --beside" in line
    beside = shutil.copytree(root / "align.tiny", tmp_path / "beside")
    (beside / "output/model_final.pth").unlink()
    line = fails(capsys, words(root, image, "--truth", "--beside", beside))
    assert f"{beside}/output has no checkpoint" in line and "--beside-weights x.pth" in line
    assert "x.pth does not exist" in fails(capsys, words(root, image, "--weights", "x.pth"))


def test_weights_that_do_not_fit(root, image, shown, capsys):
    weights = root / "align.tiny/output/model_final.pth"
    assert "model_final.pth" in fails(capsys, words(root, image, "--weights", weights))


def test_wrong_key(root, image, shown, capsys):
    line = fails(capsys, words(root, image, "TEST.AUG.ENABLD", "False"))
    assert "Did you mean TEST.AUG.ENABLED?" in line


@pytest.mark.parametrize("options", [["0"], ["-1"], ["0", "--truth"], ["-1", "--truth"]])
def test_count_must_be_positive(root, image, shown, capsys, options):
    """Not "no object", and not all but the last one."""
    line = fails(capsys, words(root, image, "--score", "0", "--count", *options))
    assert "--count" in line and options[0] in line


@pytest.mark.parametrize("score", ["nan", "-0.5", "1.5"])
def test_score_must_be_one(root, image, shown, capsys, score):
    """As pods_demo says it."""
    line = fails(capsys, words(root, image, "--score", score))
    assert "--score" in line and "0 ... 1" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "two"], "argument --count: invalid int value: 'two'"),
        (["--score", "half"], "argument --score: invalid float value: 'half'"),
        (["--num-gpus", "3"], "argument --num-gpus: "),
        (["--colour", "red"], "unrecognized arguments: --colour"),
    ],
)
def test_usage(root, image, shown, capsys, options, message):
    line = fails(capsys, words(root, image, *options), status=2)
    assert line.startswith("pods_vis alignment: error: ") and message in line


def test_input_is_needed(capsys):
    line = fails(capsys, ["alignment"], status=2)
    assert "the following arguments are required: --input" in line


@pytest.mark.parametrize("name", ["out.xyz", "file/out.png"])
def test_pictures_that_cannot_be_written(root, image, monkeypatch, capsys, tmp_path, name):
    """A kind that nobody knows, a path below a file."""
    monkeypatch.setenv("CVPODS_DATASETS", str(root / "data"))
    (tmp_path / "file").write_text("")
    line = fails(capsys, words(root, image, "--truth", "--output", tmp_path / name))
    assert name in line


@pytest.mark.parametrize("name", ["folder", "folder.png"])
def test_picture_into_a_folder(root, image, monkeypatch, tmp_path, name):
    """That there is."""
    monkeypatch.setenv("CVPODS_DATASETS", str(root / "data"))
    (tmp_path / name).mkdir()
    main(words(root, image, "--truth", "--count", "1", "--output", tmp_path / name))
    assert [path.name for path in (tmp_path / name).iterdir()] == ["alignment.png"]


def test_picture_of_no_kind(root, image, monkeypatch, capsys, tmp_path):
    """A name without a suffix: what is said to be written is there."""
    monkeypatch.setenv("CVPODS_DATASETS", str(root / "data"))
    main(words(root, image, "--truth", "--count", "1", "--output", tmp_path / "picture"))
    said = capsys.readouterr().err.strip().rpartition("Wrote ")[2]
    assert [str(path) for path in tmp_path.iterdir()] == [said]


def test_classes_of_data_and_model_differ(root, image, shown, capsys, tmp_path):
    """--truth: an annotated class is a number, which the model would take for another class."""
    content = torch.load(root / "assign.tiny/output/model_final.pth", weights_only=True)
    path = tmp_path / "other.pth"
    torch.save({**content, "thing_classes": [*NAMES[:5], "heart"]}, path)
    line = fails(capsys, words(root, image, "--truth", "--weights", path))
    assert "'heart'" in line and "'cross'" in line


@pytest.mark.parametrize("argv", [[], ["figure"], ["--input", "x.png"]])
def test_unknown_figure(capsys, argv):
    assert fails(capsys, argv, status=2).startswith("usage: pods_vis {alignment} ...")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(capsys, flag):
    """On stdout, as help of every command."""
    for argv, start in (
        ([flag], "usage: pods_vis {alignment}"),
        (
            ["alignment", flag],
            "usage: pods_vis alignment [-h]",
        ),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(argv)
        assert not exit_.value.code
        out, err = capsys.readouterr()
        assert out.startswith(start) and err == ""
    assert "objects (4)" in out and "least score (0.3)" in out
