"""pods_demo: what it reads, draws and writes; no source is overwritten; errors are one message."""

from __future__ import annotations

import argparse
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from loguru import logger
from PIL import Image

from cvpods.checkpoint.origin import Origin
from cvpods.data.detection_utils import read_image
from cvpods.engine.class_names import ClassMismatch
from cvpods.structures import Boxes, Instances
from cvpods.tools import demo_run as module
from cvpods.tools.demo import main, split_overrides
from cvpods.tools.demo_files import OutputNames, find_sources, image_suffixes
from cvpods.tools.demo_run import Demo
from cvpods.tools.demo_scores import score_thresholds
from cvpods.tools.experiment import open_experiment
from cvpods.utils.errors import ConfigError, DataError
from cvpods.utils.video import VideoReader, VideoWriter
from cvpods.utils.visualize import class_color


class Finder:
    """Stands for a Predictor: finds a cat of score .9 and dogs of .6 and .4 in every image."""

    class_names = ["cat", "dog"]

    def __init__(self):
        self.images = []

    def __call__(self, image):
        self.images.append(image)
        boxes = [[100.0, 100, 300, 300], [20, 50, 90, 90], [300.257, 20, 380, 60]]
        return Instances(
            image.shape[:2],
            pred_boxes=Boxes(torch.tensor(boxes)),
            scores=torch.tensor([0.9, 0.6, 0.4]),
            pred_classes=torch.tensor([0, 1, 1]),
        )


CAT = {"class": "cat", "score": 0.9, "box": [100, 100, 300, 300]}
DOG = {"class": "dog", "score": 0.6, "box": [20, 50, 90, 90]}
FAINT = {"class": "dog", "score": 0.4, "box": [300.26, 20, 380, 60]}


def picture(path, height=400, width=400, value=60, **options):
    Image.new("RGB", (width, height), (value,) * 3).save(path, **options)
    return str(path)


def rgb(color):
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def pixels(path):
    with Image.open(path) as opened:
        return np.array(opened.convert("RGB"))


def shows_boxes(image):
    """The left sides of the cat's and the first dog's box, in their classes' colours."""
    cat, dog = (np.array(rgb(class_color(label))) for label in (0, 1))
    return [np.abs(image[y, x] - c).max() < 40 for y, x, c in ((250, 100, cat), (80, 20, dog))]


# -- thresholds ------------------------------------------------------------------------------------


def arguments(**values):
    defaults = {"score": "0.5", "results": None, "input": [], "opts": []}
    return argparse.Namespace(**{**defaults, **values})


@pytest.mark.parametrize("text, expected", [("0.5", 0.5), ("0", 0.0), ("1", 1.0), ("1e-3", 0.001)])
def test_one_score_for_all(text, expected):
    assert score_thresholds(arguments(score=text), None) == expected


@pytest.mark.parametrize("text", ["nan", "inf", "-0.1", "1.01", "half", "", "per_class"])
def test_bad_scores(text):
    with pytest.raises(
        ConfigError, match=f"--score must be in 0 ... 1, or per-class; got {text!r}"
    ):
        score_thresholds(arguments(score=text), None)


@pytest.mark.parametrize(
    "thresholds, expected",
    [
        (0.0, [CAT, DOG, FAINT]),
        (0.5, [CAT, DOG]),
        (0.7, [CAT]),
        (1.0, []),
        ({"cat": 0.95, "dog": 0.3}, [DOG, FAINT]),
        ({"dog": 0.61}, [CAT]),  # classes without a threshold: 0.5
        ({}, [CAT, DOG]),
        ({"cat": float(torch.tensor(0.9))}, [CAT, DOG]),  # a score equal to it is enough
    ],
)
def test_what_is_shown(thresholds, expected):
    demo = Demo(Finder(), thresholds)
    found, seconds = demo.detect(np.zeros((400, 400, 3), np.uint8))
    assert demo.describe(found) == expected
    assert 0 <= seconds < 10


def truth_as_results(shapes_root, score):
    """The validation set's own boxes as detections; score(class id, number) each."""
    truth = json.loads((shapes_root / "shapes/annotations/instances_val.json").read_text())
    results = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")}
        | {"score": score(a["category_id"], i)}
        for i, a in enumerate(truth["annotations"])
    ]
    names = {c["id"]: c["name"] for c in truth["categories"]}
    return results, {names[a["category_id"]] for a in truth["annotations"]}


@pytest.fixture
def tiny_config(experiment, shapes_root, monkeypatch):
    monkeypatch.setenv("CVPODS_DATASETS", str(shapes_root))
    return open_experiment(experiment)[0]


def test_scores_per_class(tiny_config, shapes_root):
    """Every object is found with the score 0.1 + its class id / 100, so that is the threshold.

    Ids are 2, 3, 5, 7, 11, 13 for disc, square, triangle, star, ring, cross.
    """
    results, present = truth_as_results(shapes_root, lambda label, _: 0.1 + label / 100)
    path = Path(tiny_config.OUTPUT_DIR, "inference", "coco_instances_results.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results))
    thresholds = score_thresholds(arguments(score="per-class"), tiny_config)
    ids = {"disc": 2, "square": 3, "triangle": 5, "star": 7, "ring": 11, "cross": 13}
    assert len(present) > 3
    assert thresholds == pytest.approx({name: 0.1 + ids[name] / 100 for name in present})


def test_results_are_named(tiny_config, shapes_root, tmp_path):
    results, present = truth_as_results(shapes_root, lambda *_: 0.25)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(results))
    named = score_thresholds(arguments(score="per-class", results=str(path)), tiny_config)
    assert named == pytest.approx(dict.fromkeys(present, 0.25))


def test_scores_per_class_of_weights_with_other_classes(tiny_config, shapes_root, tmp_path):
    """Another order goes by name, other names are refused, or taken by their position."""
    results, present = truth_as_results(shapes_root, lambda label, _: 0.1 + label / 100)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(results))
    args = arguments(score="per-class", results=str(path))
    names = ["disc", "square", "triangle", "star", "ring", "cross"]
    wanted = score_thresholds(args, tiny_config)
    assert score_thresholds(args, tiny_config, Origin(class_names=tuple(names[::-1]))) == wanted
    upper = Origin(class_names=tuple(name.upper() for name in names))
    with pytest.raises(ClassMismatch, match="case or spaces"):
        score_thresholds(args, tiny_config, upper)
    tiny_config.TEST.CLASSES_BY_POSITION = True
    found = score_thresholds(args, tiny_config, upper)
    assert found == {name.upper(): score for name, score in wanted.items()}


BOX = {"image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9], "score": 0.5}


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[1]",
        json.dumps([{**BOX, "image_id": 99}]),
        json.dumps([{**BOX, "score": None}]),
        json.dumps([{**BOX, "bbox": "abcd"}]),
        json.dumps([{k: v for k, v in BOX.items() if k != "score"}]),
        json.dumps([{k: v for k, v in BOX.items() if k != "bbox"}]),
    ],
)
def test_unusable_results(tiny_config, tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"mine\.json holds no results for 'shapes_val'"):
        score_thresholds(arguments(score="per-class", results=str(path)), tiny_config)


def test_results_with_a_box_of_three_numbers(tiny_config, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{**BOX, "bbox": [0, 0, 9]}]))
    with pytest.raises(DataError, match=r"mine\.json"):
        score_thresholds(arguments(score="per-class", results=str(path)), tiny_config)


@pytest.mark.parametrize("content", ["[]", "{}", json.dumps([{**BOX, "category_id": 99}])])
def test_results_that_find_nothing(tiny_config, tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"mine\.json holds no detection that finds an object"):
        score_thresholds(arguments(score="per-class", results=str(path)), tiny_config)


def test_missing_results(tiny_config):
    with pytest.raises(DataError, match="coco_instances_results.json.*pods_test.*--results"):
        score_thresholds(arguments(score="per-class"), tiny_config)


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], "inference"),
        (["TEST.AUG.ENABLED", "True"], "inference_TTA"),
        (["DATASETS.TEST", "('shapes_val', 'shapes_train')"], "inference/shapes_val"),
    ],
)
def test_results_are_looked_for_where_pods_test_leaves_them(tiny_config, options, expected):
    tiny_config.merge_from_list(options)
    place = re.escape(str(Path(tiny_config.OUTPUT_DIR, expected, "coco_instances_results.json")))
    with pytest.raises(DataError, match=f": {place} does not exist"):
        score_thresholds(arguments(score="per-class"), tiny_config)


# -- drawing and writing ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.png", "out.jpg"])
def test_image_and_json(tmp_path, name):
    source = picture(tmp_path / "street.png", 400, 500)
    Demo(Finder(), 0.5, save_json=True).image(source, tmp_path / name)
    drawn = pixels(tmp_path / name)
    assert drawn.shape == (400, 500, 3)
    assert shows_boxes(drawn) == [True, True]
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "source": source,
        "height": 400,
        "width": 500,
        "detections": [CAT, DOG],
    }
    assert Image.open(tmp_path / name).format == {"png": "PNG", "jpg": "JPEG"}[name[-3:]]


def test_json_on_request_alone(tmp_path):
    Demo(Finder(), 0.5).image(picture(tmp_path / "a.png"), tmp_path / "out.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "out.png"]


def test_small_images_keep_their_boxes_in_json(tmp_path):
    """The picture is enlarged to 400 pixels; the numbers are of the image itself."""
    demo = Demo(Finder(), 0.8, save_json=True)
    demo.image(picture(tmp_path / "a.png", 200, 300), tmp_path / "out.png")
    assert pixels(tmp_path / "out.png").shape == (400, 600, 3)
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["height"], record["width"], record["detections"]) == (200, 300, [CAT])


def test_colours_of_the_image_stay(tmp_path):
    """RGB in, RGB out."""
    Image.new("RGB", (400, 400), (200, 100, 50)).save(tmp_path / "a.png")
    finder = Finder()
    Demo(finder, 1.0).image(str(tmp_path / "a.png"), tmp_path / "out.png")
    assert (pixels(tmp_path / "out.png") == (200, 100, 50)).all()
    assert (finder.images[0] == (200, 100, 50)).all()


def test_the_best_lies_on_top():
    class Twice(Finder):
        def __call__(self, image):
            found = super().__call__(image)
            found.pred_boxes.tensor[:] = torch.tensor([100.0, 100, 300, 300])
            return found

    demo = Demo(Twice(), 0.0)
    image = np.full((400, 400, 3), 60, np.uint8)
    drawn = demo.draw(image, demo.detect(image)[0])
    assert drawn[200, 100].tolist() == rgb(class_color(0))
    assert (image == 60).all()


@pytest.mark.parametrize("kind", ["16 bits", "palette", "several frames", "turned"])
def test_files_of_all_kinds(tmp_path, kind):
    path, shape = tmp_path / "a.png", (400, 500, 3)
    if kind == "16 bits":
        Image.fromarray(np.full((400, 500), 60 * 256, np.uint16)).save(path)
    elif kind == "palette":
        Image.new("P", (500, 400)).save(path)
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        picture(path, 500, 400, exif=exif)
    else:
        path = tmp_path / "a.GIF"
        frames = [Image.new("L", (500, 400), value) for value in (10, 200)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    Demo(Finder(), 0.5).image(str(path), tmp_path / "out.png")
    drawn = pixels(tmp_path / "out.png")
    assert drawn.shape == shape and shows_boxes(drawn) == [True, True]


# -- videos ----------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path):
    """Six frames of 402 x 500."""
    pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, Fraction(12)) as writer:
        for i in range(6):
            writer.write(np.full((402, 500, 3), 20 * i, np.uint8))
    return str(path)


def frames_of(path):
    with VideoReader(str(path)) as reader:
        return list(reader)


def test_video(clip, tmp_path):
    finder = Finder()
    Demo(finder, 0.5, save_json=True).video(clip, tmp_path / "out.mp4")
    with VideoReader(str(tmp_path / "out.mp4")) as reader:
        assert reader.rate == 12
        frames = list(reader)
    assert [f.shape for f in frames] == [(402, 500, 3)] * 6
    assert all(shows_boxes(frame) == [True, True] for frame in frames)
    assert [abs(int(image.mean()) - 20 * i) < 5 for i, image in enumerate(finder.images)]
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["frames"] == [[CAT, DOG]] * 6
    assert (record["source"], record["height"], record["width"]) == (clip, 402, 500)


@pytest.mark.parametrize("most, expected", [(1, 1), (4, 4), (6, 6), (99, 6), (None, 6)])
def test_frames_at_most(clip, tmp_path, most, expected):
    finder = Finder()
    Demo(finder, 0.5).video(clip, tmp_path / "out.mp4", most)
    assert len(frames_of(tmp_path / "out.mp4")) == len(finder.images) == expected


def test_small_video(tmp_path):
    """50 x 74 is enlarged by 8: 400 x 592."""
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "small.mp4", Fraction(10)) as writer:
        writer.write(np.full((50, 74, 3), 90, np.uint8))
    Demo(Finder(), 0.5).video(str(tmp_path / "small.mp4"), tmp_path / "out.mp4")
    assert [f.shape for f in frames_of(tmp_path / "out.mp4")] == [(400, 592, 3)]


class Camera:
    """Stands for VideoReader: gives pictures until `end` is raised; None: it never ends."""

    rate, num_frames = Fraction(25), 0

    def __init__(self, count, end):
        self.count, self.end = count, end

    def __call__(self, source):
        self.source = source
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def __iter__(self):
        for i in range(self.count):
            yield np.full((401, 403, 3), 10 * i, np.uint8)
        if self.end is not None:
            raise self.end


def run_camera(demo, *arguments):
    """An interruption that comes through would end all tests; here it fails one."""
    try:
        demo.video(*arguments)
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C is not handled.")


def test_camera_until_ctrl_c(tmp_path, monkeypatch):
    """What was seen until then can be played, and is listed; odd sides lose a row and a column."""
    pytest.importorskip("av")
    monkeypatch.setattr(module, "VideoReader", Camera(5, KeyboardInterrupt()))
    run_camera(Demo(Finder(), 0.5, save_json=True), "camera", tmp_path / "camera.mp4")
    frames = frames_of(tmp_path / "camera.mp4")
    assert [f.shape for f in frames] == [(400, 402, 3)] * 5
    assert shows_boxes(frames[4]) == [True, True]
    record = json.loads((tmp_path / "camera.json").read_text())
    assert record["source"] == "camera" and len(record["frames"]) == 5


def test_camera_for_some_frames(tmp_path, monkeypatch):
    pytest.importorskip("av")
    camera = Camera(1000, None)
    monkeypatch.setattr(module, "VideoReader", camera)
    Demo(Finder(), 0.5).video("camera:1", tmp_path / "camera1.mp4", 3)
    assert camera.source == "camera:1"
    assert len(frames_of(tmp_path / "camera1.mp4")) == 3


def test_ctrl_c_in_a_video(clip, tmp_path):
    """It ends the command; what was seen until then can be played, and is listed."""

    class Interrupted(Finder):
        def __call__(self, image):
            if len(self.images) == 2:
                raise KeyboardInterrupt
            return super().__call__(image)

    with pytest.raises(KeyboardInterrupt):  # the sources after it are not wanted either
        Demo(Interrupted(), 0.5, save_json=True).video(clip, tmp_path / "out.mp4")
    assert len(frames_of(tmp_path / "out.mp4")) == 2
    assert len(json.loads((tmp_path / "out.json").read_text())["frames"]) == 2


def test_damaged_video_keeps_what_was_seen(tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr(module, "VideoReader", Camera(3, DataError("frame 3 cannot be read")))
    with pytest.raises(DataError, match="frame 3"):
        Demo(Finder(), 0.5, save_json=True).video("a.mp4", tmp_path / "out.mp4")
    assert len(frames_of(tmp_path / "out.mp4")) == 3
    assert len(json.loads((tmp_path / "out.json").read_text())["frames"]) == 3


@pytest.mark.parametrize("end", [None, KeyboardInterrupt(), DataError("frame 0 is damaged")])
def test_video_without_frames(tmp_path, monkeypatch, end):
    """No empty file is left."""
    pytest.importorskip("av")
    monkeypatch.setattr(module, "VideoReader", Camera(0, end))
    with pytest.raises(DataError, match="camera gave no frame|frame 0"):
        run_camera(Demo(Finder(), 0.5, save_json=True), "camera", tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


# -- sources and names -----------------------------------------------------------------------------


@pytest.fixture
def shots(tmp_path, monkeypatch):
    """A folder shots/ with files of many kinds, in the current folder."""
    folder = tmp_path / "shots"
    (folder / "deeper").mkdir(parents=True)
    (folder / "folder.jpg").mkdir()
    names = ("b.JPG", "a.png", "c.Mp4", "notes.txt", "a[1].jpg", "d.tar", "deeper/e.jpeg")
    for name in names:
        (folder / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    "inputs, expected",
    [
        (["shots"], ["a.png", "a[1].jpg", "b.JPG", "c.Mp4"]),
        (["shots/b.JPG", "shots/a.png"], ["b.JPG", "a.png"]),
        (["shots/a[1].jpg"], ["a[1].jpg"]),
        (["shots/a*"], ["a.png", "a[1].jpg"]),
        (["shots/**/*.jp*g"], ["a[1].jpg", "deeper/e.jpeg"]),
        (["shots/notes.txt"], ["notes.txt"]),  # named, so tried
        (["shots/b.JPG", "shots"], ["b.JPG", "a.png", "a[1].jpg", "c.Mp4"]),  # once each
        (["camera", "shots/a.png", "camera:1"], ["camera", "a.png", "camera:1"]),
        (["shots/../shots/a.png"], ["../shots/a.png"]),
    ],
)
def test_sources(shots, inputs, expected):
    found, missing = find_sources(inputs)
    assert missing == []
    assert [s if s.startswith("camera") else s.removeprefix("shots/") for s in found] == expected


def test_home(shots, monkeypatch):
    monkeypatch.setenv("HOME", str(shots))
    monkeypatch.setenv("USERPROFILE", str(shots))
    assert find_sources(["~/a.png"]) == ([str(shots / "a.png")], [])


@pytest.mark.parametrize("text", ["nowhere.jpg", "shots/*.webp", "empty", "shots/folder.jpg"])
def test_inputs_that_name_nothing(shots, text):
    assert find_sources([text, "shots/a.png"]) == (["shots/a.png"], [text])


@pytest.mark.parametrize("text", ["~nobody-of-this-name.jpg", "x" * 300 + ".jpg"])
def test_odd_inputs_that_name_nothing(shots, text):
    assert find_sources([text]) == ([], [text])


def test_file_that_begins_with_a_tilde(shots):
    Path("~x.jpg").touch()
    assert [Path(s).name for s in find_sources(["~x.jpg"])[0]] == ["~x.jpg"]


def outputs(folder, *sources):
    """Names given to files, all of which exist; each is written before the next is asked for."""
    for source in sources:
        if not source.startswith("camera") and not Path(source).exists():
            Path(source).parent.mkdir(parents=True, exist_ok=True)
            Path(source).touch()
    Path(folder).mkdir(exist_ok=True)
    names, given = OutputNames(Path(folder), sources), []
    for source in sources:
        given.append(names(source))
        given[-1].touch()
        given[-1].with_suffix(".json").touch()
    return [str(path.relative_to(folder)) for path in given]


@pytest.mark.parametrize(
    "sources, expected",
    [
        (["in/a.jpg", "in/b.PNG", "c.webp", "d.MOV"], ["a.jpg", "b.png", "c.jpg", "d.mp4"]),
        (["x/a.jpg", "y/a.jpg", "z/a.jpg"], ["a.jpg", "a_2.jpg", "a_3.jpg"]),
        # Their json files would have one name.
        (["a.jpg", "a.png", "a.mp4"], ["a.jpg", "a_2.png", "a_3.mp4"]),
        (["x/a.jpg", "y/a.jpg", "a_2.jpg"], ["a.jpg", "a_2.jpg", "a_2_2.jpg"]),
        (["a.b.jpg", "a.c.jpg", "noend"], ["a.b.jpg", "a.c.jpg", "noend.jpg"]),
        (["camera", "camera:1"], ["camera.mp4", "camera1.mp4"]),
        (["out/a.jpg"], ["a_2.jpg"]),
        (["out/a.jpg", "x/a.jpg", "out/a_2.jpg"], ["a_3.jpg", "a_4.jpg", "a_2_2.jpg"]),
        (["out/../out/a.png", "a.json"], ["a_2.png", "a.jpg"]),
        (["out/a.json", "x/a.jpg"], ["a_2.jpg", "a_3.jpg"]),  # no a.json may be written
    ],
)
def test_names(tmp_path, monkeypatch, sources, expected):
    """PNG stays, videos become mp4, all others JPEG; a number where a name is taken."""
    monkeypatch.chdir(tmp_path)
    assert outputs("out", *sources) == expected


def test_files_beside_a_source_are_kept(tmp_path, monkeypatch):
    """Whether they are sources or not: notes.json may hold annotations."""
    monkeypatch.chdir(tmp_path)
    for name in ("notes.json", "other.jpg"):
        Path(name).touch()
    assert outputs(".", "notes.bmp", "other.bmp") == ["notes_2.jpg", "other_2.jpg"]


def test_pictures_of_an_earlier_run_are_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert outputs("out", "a.jpg") == outputs("out", "a.jpg") == ["a.jpg"]


@pytest.mark.parametrize(
    "suffix", [".jfif", ".jpe", ".avif", ".jp2", ".mpo", ".webp", ".tif", ".TIFF", ".pnm", ".tga"]
)
def test_images_of_a_folder(tmp_path, suffix):
    """Every format of photographs that Pillow reads; the content is what the name says."""
    if suffix.lower() not in image_suffixes():
        pytest.skip(f"this Pillow does not read {suffix}")
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(path)
    assert find_sources([str(tmp_path)]) == ([str(path)], [])
    assert abs(int(read_image(path)[32, 32, 0]) - 200) <= 3


def test_what_a_folder_holds_beside_images_is_named(tmp_path):
    """Hidden files are not; neither are more than ten."""
    lines = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    picture(tmp_path / "a.png")
    find_sources([str(tmp_path)])
    assert lines == []
    for name in ("notes.txt", "font.ttf", ".hidden", "scan.pdf"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    find_sources([str(tmp_path)])
    logger.remove(handler)
    (line,) = lines
    assert "font.ttf, more/, notes.txt, scan.pdf." in line and ".hidden" not in line


def test_folder_by_another_name(tmp_path):
    """The output folder is a link to the source's."""
    picture(tmp_path / "a.jpg")
    (tmp_path / "same").symlink_to(tmp_path)
    assert outputs(tmp_path / "same", str(tmp_path / "a.jpg")) == ["a_2.jpg"]


@pytest.mark.parametrize("kind", ["link in the output", "source is a link", "hard link"])
def test_links_to_a_source_are_not_written_through(tmp_path, kind):
    """Hard links stand also for a.JPG and a.jpg where the file system takes them for one."""
    stored, out = tmp_path / "stored", tmp_path / "out"
    stored.mkdir()
    out.mkdir()
    picture(stored / "a.jpg")
    if kind == "hard link":
        (out / "a.jpg").hardlink_to(stored / "a.jpg")
    else:
        (out / "a.jpg").symlink_to(stored / "a.jpg")
    source = out / "a.jpg" if kind == "source is a link" else stored / "a.jpg"
    assert outputs(out, str(source)) == ["a_2.jpg"]


@pytest.mark.parametrize("seed", range(20))
def test_names_are_never_given_twice_nor_a_source(tmp_path, seed):
    random = np.random.default_rng(seed)
    folder = tmp_path / "out"
    stems = ("a", "a_2", "a_2_2", "a_3")
    all_sources = [
        str(tmp_path / place / f"{stem}{suffix}")
        for place in ("out", "x")
        for stem in stems
        for suffix in (".jpg", ".png", ".bmp", ".mp4", ".json")
    ]
    sources = random.choice(all_sources, 20, replace=False).tolist()
    given = [folder / name for name in outputs(folder, *sources)]
    records = [path.with_suffix(".json") for path in given]
    assert len(set(given)) == len(set(records)) == 20
    assert not {str(path) for path in (*given, *records)} & set(sources)


@pytest.mark.parametrize(
    "inputs, opts, expected",
    [
        (["a.jpg", "SEED", "3"], [], (["a.jpg"], ["SEED", "3"])),
        (
            ["a.jpg", "b", "MODEL.WEIGHTS", "x.pth"],
            ["SEED", "3"],
            (["a.jpg", "b"], ["MODEL.WEIGHTS", "x.pth", "SEED", "3"]),
        ),
        (["a.jpg"], ["SEED", "3"], (["a.jpg"], ["SEED", "3"])),
        (["a.jpg", "model.weights", "x"], [], (["a.jpg", "model.weights", "x"], [])),
        (["IMG_1.JPG", "HERE", "SEED", "3"], [], (["IMG_1.JPG", "HERE"], ["SEED", "3"])),
    ],
)
def test_overrides_behind_the_input(tmp_path, monkeypatch, inputs, opts, expected):
    """Keys are upper case with points; a file of such a name is a file."""
    monkeypatch.chdir(tmp_path)
    Path("IMG_1.JPG").touch()
    Path("HERE").mkdir()
    args = arguments(input=inputs, opts=opts)
    split_overrides(args)
    assert (args.input, args.opts) == expected


# -- the command, in this process ------------------------------------------------------------------


@pytest.fixture
def pods_demo(experiment, monkeypatch, tmp_path, capsys):
    """Run the command with a Finder; returns its exit status and what it printed."""
    made = []

    class Experiment:
        @staticmethod
        def from_config(cfg, build_model, weights=None):
            made.append({"seed": cfg.SEED, "device": cfg.MODEL.DEVICE, "weights": weights})
            return Finder()

    def run(*words):
        try:
            main(["--dir", str(experiment), *map(str, words)])
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, capsys.readouterr().err

    run.made = made
    run.folder = experiment
    monkeypatch.setattr(module, "Predictor", Experiment)
    monkeypatch.chdir(tmp_path)
    return run


def test_command(pods_demo, tmp_path):
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "b.png")
    status, printed = pods_demo("--input", "a.jpg", "b.png", "SEED", "5", "--output", "new/out")
    assert status == 0
    assert sorted(p.name for p in Path("new/out").iterdir()) == ["a.jpg", "b.png"]
    assert shows_boxes(pixels("new/out/b.png")) == [True, True]
    assert re.search(r"a\.jpg: 2 objects in \d+\.\d{3} s -> new/out/a\.jpg", printed)
    (made,) = pods_demo.made
    assert (made["seed"], made["weights"]) == (5, None)


def test_command_writes_to_the_output_of_the_experiment(pods_demo, tmp_path):
    picture(tmp_path / "a.jpg")
    words = ["SEED", "5", "--num-gpus", "0", "--input", "a.jpg", "MODEL.WEIGHTS", "x.pth", "--json"]
    assert pods_demo(*words)[0] == 0
    assert pods_demo.made == [{"seed": 5, "device": "cpu", "weights": "x.pth"}]
    folder = pods_demo.folder / "output/demo"
    assert sorted(p.name for p in folder.iterdir()) == ["a.jpg", "a.json"]


def test_bad_sources_are_named_and_skipped(pods_demo, tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / "bad.jpg").write_text("no image")
    (tmp_path / "bad.mp4").write_text("no video")
    picture(tmp_path / "c.jpg")
    inputs = ["a.jpg", "bad.jpg", "nowhere.jpg", "bad.mp4", "IMG_2.JPG", "c.jpg"]
    status, printed = pods_demo("--input", *inputs, "--output", "o")
    assert status == 1
    assert "Skipped: nowhere.jpg is not a file" in printed
    assert "Skipped: Image bad.jpg cannot be read" in printed
    assert "Skipped: Video bad.mp4 cannot be opened" in printed
    assert printed.rstrip().endswith("error: 4 not used: nowhere.jpg, IMG_2.JPG, bad.jpg, bad.mp4")
    assert "Traceback" not in printed
    assert sorted(p.name for p in Path("o").iterdir()) == ["a.jpg", "c.jpg"]


def test_output_beside_the_sources(pods_demo, tmp_path):
    """Run twice: the second run also sees the first one's pictures, and changes none."""
    for name in ("a.jpg", "a.png", "a_2.jpg", "b.PNG"):
        picture(tmp_path / name)
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    for count in (8, 16):
        status, _ = pods_demo("--input", ".", "--output", ".")
        after = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
        assert status == 0 and len(after) == count
        assert before.items() <= after.items()
        before = after


def test_video_command(pods_demo, clip):
    status, printed = pods_demo("--input", clip, "--output", "o", "--max-frames", "2", "--json")
    assert status == 0
    assert re.search(r"clip\.mp4: 2 frames, \d+\.\d{3} s each -> o/clip\.mp4", printed)
    assert len(frames_of("o/clip.mp4")) == 2
    assert len(json.loads(Path("o/clip.json").read_text())["frames"]) == 2


def test_progress_bars(pods_demo, clip, tmp_path, monkeypatch):
    """On a terminal alone."""
    picture(tmp_path / "a.jpg")
    _, printed = pods_demo("--input", clip, "a.jpg", "--output", "o")
    assert "%|" not in printed
    monkeypatch.setattr(module, "is_terminal", lambda: True)
    _, printed = pods_demo("--input", clip, "a.jpg", "--output", "o")
    assert re.search(r"demo: +100%\|.*2/2", printed)
    assert re.search(r"clip\.mp4: +100%\|.*6/6", printed)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--input", "nowhere.jpg"], "error: 1 not used: nowhere.jpg"),
        (["--input", "IMG_2.JPG", "PHOTOS"], "error: 2 not used: IMG_2.JPG, PHOTOS"),
        (["--input", "SEED", "3"], "--input names nothing"),
        (["--input", "a.jpg", "--max-frames", "0"], "--max-frames must be at least 1; got 0"),
        (["--input", "a.jpg", "--max-frames=-1"], "--max-frames must be at least 1; got -1"),
        (["--input", "a.jpg", "--output", "a.jpg"], "--output a.jpg cannot be made"),
        (["--input", "a.jpg", "--output", "a.jpg/sub"], "--output a.jpg/sub cannot be made"),
        (["--input", "a.jpg", "--score", "2"], "--score must be in 0 ... 1, or per-class; got '2'"),
        (["--input", "a.jpg", "--score", "per-class"], "Run pods_test first"),
        (["--input", "a.jpg", "MODEL.WEIGTHS", "x"], "Did you mean MODEL.WEIGHTS?"),
        (["--input", "a.jpg", "SEED"], "Overrides are KEY VALUE pairs; got 'SEED'"),
        (["--input", "a.jpg", "--dir", "."], "is not an experiment"),
    ],
)
def test_errors_are_one_message(pods_demo, tmp_path, words, message):
    picture(tmp_path / "a.jpg")
    status, printed = pods_demo(*words)
    assert status == 1 and message in printed
    assert printed.count("error:") == 1 and "Traceback" not in printed
    assert not list(tmp_path.rglob("demo"))


def test_video_without_av(pods_demo, tmp_path, monkeypatch):
    monkeypatch.setattr("cvpods.utils.video.av", None)
    (tmp_path / "a.mp4").touch()
    status, printed = pods_demo("--input", "a.mp4", "--output", "o")
    assert status == 1 and "error: Video needs the package av: pip install av" in printed


def test_pictures_that_cannot_be_written(pods_demo, tmp_path):
    """A folder has the picture's name; another one the json's. The next source is done."""
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / name)
    (tmp_path / "o/a.jpg").mkdir(parents=True)
    (tmp_path / "o/b.json").mkdir()
    status, printed = pods_demo("--input", "a.jpg", "b.jpg", "c.jpg", "--output", "o", "--json")
    assert status == 1 and Path("o/c.jpg").is_file()
    assert "Skipped: o/a.jpg cannot be written" in printed
    assert "Skipped: o/b.json cannot be written" in printed
    assert printed.rstrip().endswith("error: 2 not used: a.jpg, b.jpg")


def test_video_that_cannot_be_written(pods_demo, clip):
    Path("o/clip.mp4").mkdir(parents=True)
    status, printed = pods_demo("--input", clip, "--output", "o")
    assert status == 1 and "Skipped: Video o/clip.mp4 cannot be written" in printed


def test_ctrl_c_ends_the_command(pods_demo, clip, tmp_path, monkeypatch):
    """Status 130, as shells have it."""
    picture(tmp_path / "a.jpg")
    monkeypatch.setattr(module, "VideoReader", Camera(2, KeyboardInterrupt()))
    status, printed = pods_demo("--input", clip, "a.jpg", "--output", "o")
    assert status == 130 and "Traceback" not in printed
    assert [p.name for p in Path("o").iterdir()] == ["clip.mp4"]
    status, printed = pods_demo("--input", "camera", "a.jpg", "--output", "o")
    assert status == 0 and "Stopped by Ctrl-C" in printed and Path("o/a.jpg").is_file()


def test_several_gpus_are_refused(pods_demo, tmp_path):
    status, printed = pods_demo("--input", "a.jpg", "--num-gpus", "2")
    assert status == 2 and "--num-gpus" in printed


@pytest.mark.parametrize("name", ["thin.jpg", "thin.bmp"])
def test_long_thin_image(pods_demo, tmp_path, name):
    """2 x 330: a short side of 400 would make the long one 66000, more than JPEG's 65500."""
    picture(tmp_path / name, 2, 330)
    status, _ = pods_demo("--input", name, "--output", "o")
    assert status == 0 and pixels("o/thin.jpg").shape[1] <= 4000


# -- the command, as a user types it ---------------------------------------------------------------


@pytest.mark.slow
def test_as_typed(experiment, run_command, shapes_root, clip):
    """From the experiment's folder; weights and another key stand behind --input."""
    cfg, build_model = open_experiment(experiment)
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.nn.init.zeros_(model.head.cls_score.bias)
    torch.save({"model": model.state_dict()}, experiment / "w.pth")
    images = sorted((shapes_root / "shapes/val").iterdir())[:2]
    (experiment / "bad.jpg").write_text("no image")
    words = ["pods_demo", "--input", *images, "bad.jpg", clip, "MODEL.WEIGHTS", "w.pth", "SEED", 1]
    options = ["--score", "0.01", "--json", "--output", "shown", "--max-frames", "2"]
    result = run_command([*words, *options], experiment, status=1)
    assert "Traceback" not in result.stderr
    assert result.stderr.rstrip().endswith("error: 1 not used: bad.jpg")
    names = [f"{image.stem}{suffix}" for image in images for suffix in (".jpg", ".json")]
    expected = sorted([*names, "clip.mp4", "clip.json"])
    assert sorted(p.name for p in (experiment / "shown").iterdir()) == expected
    assert len(frames_of(experiment / "shown/clip.mp4")) == 2
    record = json.loads((experiment / f"shown/{images[0].stem}.json").read_text())
    assert record["source"] == str(images[0])
    scores = [detection["score"] for detection in record["detections"]]
    assert scores and scores == sorted(scores, reverse=True) and min(scores) >= 0.01
    known = {"disc", "square", "triangle", "star", "ring", "cross"}
    for detection in record["detections"]:
        left, top, right, bottom = detection["box"]
        assert detection["class"] in known
        assert 0 <= left <= right <= record["width"] and 0 <= top <= bottom <= record["height"]
    assert len(re.findall(r"objects in \d+\.\d{3} s ->", result.stderr)) == 2
