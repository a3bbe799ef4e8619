"""datasets/make_shapes.py: a stable, valid COCO data set with the stated properties."""

import hashlib
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.load_script import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "make_shapes.py"
TRAIN, VAL = 60, 4


make_shapes = load_script("datasets/make_shapes.py")


def load(output, split="train"):
    return json.loads((output / "annotations" / f"instances_{split}.json").read_text())


def digests(output):
    """Return the digest of every file below a folder."""
    files = sorted(path for path in output.rglob("*") if path.is_file())
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def command(output, *arguments):
    line = [sys.executable, str(SCRIPT), "--output", str(output), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes.make_shapes(folder, train=TRAIN, val=VAL, seed=0)
    return folder


@pytest.fixture(scope="module")
def data(output):
    return load(output)


@pytest.fixture(scope="module")
def scenes():
    return [make_shapes.draw_scene(np.random.default_rng(seed))[1] for seed in range(25)]


def square_shape(center, size=40):
    """Return a square in a 100 x 80 image."""
    polygons = make_shapes.shape_polygons("square", size, center)
    alpha = make_shapes.render_alpha(polygons, 100, 80)
    return make_shapes.Shape("square", center, size, alpha, alpha > 0.5, float(size**2))


# Determinism


def test_second_run_gives_equal_bytes(tmp_path):
    for name in ("first", "second"):
        make_shapes.make_shapes(tmp_path / name, train=5, val=3, seed=4)
    first = digests(tmp_path / "first")
    assert first == digests(tmp_path / "second")
    assert len(first) == 5 + 3 + 2


def test_image_does_not_depend_on_the_count(output, data, tmp_path):
    make_shapes.make_shapes(tmp_path, train=4, val=2, seed=0)
    few, many = digests(tmp_path), digests(output)
    pictures = [name for name in few if name.endswith(".jpg")]
    assert len(pictures) == 6
    assert all(few[name] == many[name] for name in pictures)
    some = load(tmp_path)
    assert some["images"] == data["images"][:4]
    assert some["annotations"] == data["annotations"][: len(some["annotations"])]


def test_seeds_and_splits_differ(output, tmp_path):
    make_shapes.make_shapes(tmp_path, train=1, val=0, seed=1)
    old, new = digests(output), digests(tmp_path)
    name = "train/000000.jpg"
    assert len({old[name], new[name], old["val/000000.jpg"]}) == 3


# Content


def test_layout(output):
    expected = {f"train/{i:06d}.jpg" for i in range(TRAIN)}
    expected |= {f"val/{i:06d}.jpg" for i in range(VAL)}
    expected |= {"annotations/instances_train.json", "annotations/instances_val.json"}
    assert set(digests(output)) == expected


def test_json_fields(data):
    assert set(data) == {"info", "licenses", "images", "annotations", "categories"}
    assert data["info"]["settings"] == {"train": TRAIN, "val": VAL, "seed": 0}
    assert all(set(image) == {"id", "file_name", "width", "height"} for image in data["images"])
    fields = {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
    assert all(set(annotation) == fields for annotation in data["annotations"])
    assert all(annotation["iscrowd"] == 0 for annotation in data["annotations"])
    assert [a["id"] for a in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))


def test_categories(data):
    assert all(set(category) == {"id", "name", "supercategory"} for category in data["categories"])
    ids = [category["id"] for category in data["categories"]]
    assert len(set(ids)) == len(ids) >= 6
    assert len({category["name"] for category in data["categories"]}) == len(ids)
    assert sorted(ids) != list(range(min(ids), min(ids) + len(ids)))
    assert {annotation["category_id"] for annotation in data["annotations"]} == set(ids)


def test_image_sizes_match_the_files(output, data):
    sizes = set()
    for image in data["images"]:
        with Image.open(output / "train" / image["file_name"]) as picture:
            assert picture.format == "JPEG" and picture.mode == "RGB"
            assert picture.size == (image["width"], image["height"])
            sizes.add(picture.size)
    assert sizes == {(256, 192), (192, 256), (224, 224)}


def test_object_counts(data):
    found = Counter(annotation["image_id"] for annotation in data["annotations"])
    counts = np.array([found[image["id"]] for image in data["images"]])
    assert counts.min() == 0 and counts.max() <= 12
    assert 0 < (counts == 0).mean() < 0.15
    assert 3 < counts.mean() < 5


def test_count_weights():
    weights = np.array(make_shapes.COUNT_PERCENT)
    assert len(weights) == 13 and weights.sum() == 100 and weights[0] == 6
    assert (weights * np.arange(13)).sum() / 100 == pytest.approx(4, abs=0.2)


def test_boxes(data):
    sizes = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
    longest = []
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        assert all(isinstance(value, float) for value in annotation["bbox"])
        assert x >= 0 and y >= 0 and w > 0 and h > 0
        assert x + w <= width and y + h <= height
        assert 0 < annotation["area"] <= w * h
        longest.append(max(w, h))
    assert min(longest) >= 8 and max(longest) <= 200
    assert np.mean([20 <= size <= 120 for size in longest]) > 0.6


def test_objects_overlap_and_cross_the_border(scenes):
    shapes = [shape for scene in scenes for shape in scene]
    cut = [s for s in shapes if s.mask[[0, -1]].any() or s.mask[:, [0, -1]].any()]
    assert 0 < len(cut) < len(shapes)
    assert any(
        (low.mask & high.mask).any()
        for scene in scenes
        for index, low in enumerate(scene)
        for high in scene[:index]
    )


def test_objects_stay_visible(scenes):
    for scene in scenes:
        for index, shape in enumerate(scene):
            seen = shape.mask.copy()
            for later in scene[index + 1 :]:
                seen &= ~later.mask
            assert seen.sum() >= 0.4 * shape.whole_area


def test_pycocotools_loads_it(output, data):
    for split, count in (("train", TRAIN), ("val", VAL)):
        coco = COCO(str(output / "annotations" / f"instances_{split}.json"))
        assert len(coco.getImgIds()) == count
    coco = COCO(str(output / "annotations" / "instances_train.json"))
    assert sorted(coco.getCatIds()) == [2, 3, 5, 7, 11, 13]
    assert len(coco.getAnnIds(iscrowd=False)) == len(data["annotations"])


# Shapes


def test_square_by_hand():
    shape = square_shape((50.0, 40.0))
    assert make_shapes.mask_box(shape.mask) == [30.0, 20.0, 40.0, 40.0]
    assert shape.mask.sum() == 1600


def test_square_cut_off_by_the_border():
    shape = square_shape((10.0, 70.0))
    assert make_shapes.mask_box(shape.mask) == [0.0, 50.0, 30.0, 30.0]
    assert shape.mask.sum() == 900


def test_empty_mask_has_an_empty_box():
    assert make_shapes.mask_box(np.zeros((4, 5), dtype=bool)) == [0.0, 0.0, 0.0, 0.0]


def test_disc_and_ring_area():
    areas = {}
    for name in ("disc", "ring"):
        polygons = make_shapes.shape_polygons(name, 60, (50.0, 40.0))
        mask = make_shapes.render_alpha(polygons, 100, 80) > 0.5
        assert make_shapes.mask_box(mask) == [20.0, 10.0, 60.0, 60.0]
        assert mask[40, 50] == (name == "disc")
        areas[name] = mask.sum()
    assert areas["disc"] == pytest.approx(math.pi * 30**2, rel=0.02)
    assert areas["ring"] == pytest.approx(math.pi * 30**2 * (1 - 0.55**2), rel=0.03)


@pytest.mark.parametrize("name", make_shapes.CATEGORIES)
@pytest.mark.parametrize("angle", [-0.3, 0.0, 0.3])
def test_every_shape_has_the_asked_size_and_soft_edges(name, angle):
    polygons = make_shapes.shape_polygons(name, 60, (50.3, 40.6), angle, stretch=1.1)
    alpha = make_shapes.render_alpha(polygons, 100, 80)
    x, y, w, h = make_shapes.mask_box(alpha > 0.5)
    assert max(w, h) == pytest.approx(60, abs=3)  # a sharp corner may cover no half pixel
    assert x + w / 2 == pytest.approx(50.3, abs=2) and y + h / 2 == pytest.approx(40.6, abs=2)
    assert ((alpha > 0) & (alpha < 1)).any()


def test_fits_refuses_hidden_and_cut_off_shapes():
    below = square_shape((50.0, 40.0))
    assert make_shapes.fits(below, [])
    assert make_shapes.fits(square_shape((70.0, 40.0)), [below])  # half of it is visible
    assert not make_shapes.fits(square_shape((60.0, 40.0)), [below])  # a quarter is visible
    assert make_shapes.fits(square_shape((2.0, 40.0)), [])  # 55 % are inside
    assert not make_shapes.fits(square_shape((0.0, 0.0)), [])  # 25 % are inside
    assert not make_shapes.fits(square_shape((50.0, 40.0), size=6), [])


# Command line


def test_command_skips_and_regenerates(tmp_path):
    small = ("--train", "2", "--val", "1")
    made = command(tmp_path, *small)
    assert made.returncode == 0 and "wrote 2 train and 1 val" in made.stdout
    before = digests(tmp_path)
    picture = tmp_path / "train" / "000000.jpg"
    picture.write_bytes(b"changed")

    skipped = command(tmp_path, *small)
    assert skipped.returncode == 0 and "already made" in skipped.stdout
    assert picture.read_bytes() == b"changed"

    assert command(tmp_path, *small, "--force").returncode == 0
    assert digests(tmp_path) == before

    other = command(tmp_path, *small, "--seed", "1")
    assert other.returncode == 0 and "wrote" in other.stdout
    assert load(tmp_path, "val")["info"]["settings"]["seed"] == 1


def test_interrupted_run_is_made_again(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    make_shapes.make_shapes(tmp_path, train=1, val=1)
    arguments = ["--output", str(tmp_path), "--train", "1", "--val", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(make_shapes, "draw_scene", fail)
        with pytest.raises(KeyboardInterrupt):
            make_shapes.main([*arguments, "--force"])
    assert not list((tmp_path / "annotations").iterdir())
    assert make_shapes.main(arguments) == 0
    assert len(load(tmp_path)["images"]) == 1


@pytest.mark.parametrize("option", ["--train", "--val", "--seed"])
def test_negative_numbers_are_refused(tmp_path, capsys, option):
    assert make_shapes.main(["--output", str(tmp_path), option, "-1"]) == 2
    message = capsys.readouterr().err
    assert f"{option[2:]} must not be negative" in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unwritable_output_is_an_error(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    result = command(blocker / "shapes", "--train", "1", "--val", "1")
    assert result.returncode == 2
    assert "error:" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("content", ['{"info": {"description": "COCO 2017"}}', "[]", "not json"])
def test_other_annotations_are_kept(tmp_path, capsys, content):
    path = tmp_path / "annotations" / "instances_train.json"
    path.parent.mkdir()
    path.write_text(content)
    assert make_shapes.main(["--output", str(tmp_path), "--train", "1", "--val", "0"]) == 2
    assert "other annotations" in capsys.readouterr().err
    assert path.read_text() == content


def test_no_images_at_all(tmp_path):
    make_shapes.make_shapes(tmp_path, train=0, val=0)
    assert load(tmp_path)["images"] == load(tmp_path)["annotations"] == []
