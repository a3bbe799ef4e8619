"""Files in other conventions: each is recognised, explained, and repaired if that is safe."""

from __future__ import annotations

import copy
import json
import os
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

from cvpods.data.dataset_check import Resizing, check_coco
from cvpods.data.detection_utils import read_image
from cvpods.tools.check import main as pods_check

SIZES = {1: (60, 40), 2: (40, 60), 3: (64, 48)}  # width, height


@pytest.fixture
def folder(tmp_path):
    for id_, (width, height) in SIZES.items():
        pixels = np.full((height, width, 3), 40 * id_, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{id_}.png")
    return tmp_path


def content():
    """Return a file with two boxes, xywh in pixels, in each of three images."""
    boxes = {
        1: [[5, 6, 20, 10], [30, 20, 28, 18]],
        2: [[2, 30, 30, 28], [20, 4, 15, 40]],
        3: [[33, 9, 30, 30], [1, 1, 12, 12]],
    }
    listed = [(id_, box) for id_ in boxes for box in boxes[id_]]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": w, "height": h}
            for i, (w, h) in SIZES.items()
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": id_, "category_id": 1 + n % 2, "bbox": box}
            for n, (id_, box) in enumerate(listed, 1)
        ],
    }


def found(report):
    return {kind: len(where) for kind, where in report.found.items() if where}


def boxes_of(what):
    return [annotation["bbox"] for annotation in what["annotations"]]


def check(folder, what, **options):
    """Return the report, the repaired content, and the report on that content."""
    report, repaired = check_coco("a", what, folder, **options)
    again, _ = check_coco("a", repaired, folder)
    return report, repaired, again


def test_coco_files_have_no_findings(folder):
    report, repaired, _ = check(folder, content())
    assert found(report) == {} and repaired == content()


def corners(box):
    x, y, w, h = box
    return [x, y, x + w, y + h]


def centred(box):
    x, y, w, h = box
    return [x + w / 2, y + h / 2, w, h]


READINGS = {"xywh": list, "xyxy": corners, "cxcywh": centred}


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("fractions", [False, True])
def test_box_formats(folder, name, fractions):
    """Recognise, name and convert every format other than COCO's."""
    what = content()
    for annotation in what["annotations"]:
        sides = SIZES[annotation["image_id"]] * 2 if fractions else (1, 1, 1, 1)
        written = READINGS[name](annotation["bbox"])
        annotation["bbox"] = [value / side for value, side in zip(written, sides, strict=True)]
    wanted = f"fractions-{name}" if fractions else name
    report, _, _ = check(folder, what)
    if wanted == "xywh":
        assert found(report) == {}
        return
    (said,) = report.found["boxes in another format"]
    assert said.startswith(f"{wanted}, for example [") and "--boxes FORMAT --fix" in str(report)
    _, repaired, again = check(folder, what, box_format=wanted)
    for box, original in zip(boxes_of(repaired), boxes_of(content()), strict=True):
        assert box == pytest.approx(original)
    assert found(again) == {}


def test_one_file_under_two_ids(folder):
    what = content()
    what["images"].append({**what["images"][0], "id": 9})
    report, _, _ = check(folder, what)
    assert report.found["one file under two ids"] == ["1.png: ids [1, 9]"]


def test_the_same_box_twice(folder):
    what = content()
    what["annotations"].append({**what["annotations"][2], "id": 77})
    report, repaired, again = check(folder, what)
    assert report.found["the same box twice"] == ["annotations 3 and 77"]
    assert repaired == content() and found(again) == {}


def test_the_same_turned_box_twice(folder):
    """Copies of a box of negative size, whose size --fix reverses (found by mutation)."""
    what = content()
    turned = {**what["annotations"][0], "bbox": [25, 16, -20, -10], "id": 8}
    what["annotations"] += [turned, {**turned, "id": 9}]
    report, repaired, again = check(folder, what)
    assert "annotations 8 and 9" in report.found["the same box twice"]
    assert boxes_of(repaired) == boxes_of(content()) and found(again) == {}


def test_a_root_class(folder):
    """Roboflow lists the project as a class of its own, without boxes."""
    what = content()
    for category in what["categories"]:
        category["supercategory"] = "pets"
    real = copy.deepcopy(what["categories"])
    what["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
    report, repaired, again = check(folder, what)
    assert found(report) == {"root class": 1} and "--fix removes it" in str(report)
    assert repaired["categories"] == real and found(again) == {}


def test_a_class_that_is_its_own_supercategory_is_not_a_root(folder):
    """labelme2coco writes the name as the supercategory."""
    what = content()
    what["categories"].append({"id": 3, "name": "bird", "supercategory": "bird"})
    assert found(check(folder, what)[0]) == {"class without boxes": 1}


@pytest.mark.parametrize("written", ["sub\\1.png", "sub%2F1.png", "sub/1%2Epng"])
def test_file_names_in_another_notation(folder, written):
    (folder / "sub").mkdir()
    (folder / "1.png").rename(folder / "sub" / "1.png")
    what = content()
    what["images"][0]["file_name"] = written
    report, repaired, again = check(folder, what)
    assert found(report) == {"file names in another notation": 1}
    assert repaired["images"][0]["file_name"] == "sub/1.png" and found(again) == {}


@pytest.mark.parametrize("stored, written", [("NFC", "NFD"), ("NFD", "NFC")])
def test_decomposed_accents(folder, stored, written):
    """macOS stores accents as separate characters."""
    (folder / "1.png").rename(folder / unicodedata.normalize(stored, "Zürich.png"))
    what = content()
    what["images"][0]["file_name"] = unicodedata.normalize(written, "Zürich.png")
    report, repaired, again = check(folder, what)
    assert found(report) == {"file names in another notation": 1} and found(again) == {}


def test_impossible_file_names(folder):
    """Names too long or with half of a surrogate pair give errors that name the image."""
    what = content()
    what["images"][0]["file_name"] = "a" * 5000
    what["images"][1]["file_name"] = "\ud800.png"
    report, repaired, _ = check(folder, what)
    wanted = {"missing file": 1, "malformed record": 1}
    assert wanted.items() <= found(report).items()
    assert [image["id"] for image in repaired["images"]] == [3]


def test_exif_orientation(folder):
    """Orientation 6 turns 60 x 40 to 40 x 60; an annotation of the stored size is refused."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "1.png").convert("RGB").save(folder / "1.png", exif=exif)
    report, _, _ = check(folder, content())
    assert found(report)["EXIF orientation"] == 1
    assert (
        "(the size before the EXIF orientation is applied)"
        in report.found["other size than annotated"][0]
    )
    what = content()
    what["images"][0].update(width=40, height=60)
    report, _, _ = check(folder, what)
    assert found(report)["EXIF orientation"] == 1 and report.count("error") == 0


def test_sizes_come_from_the_files(folder):
    what = content()
    del what["images"][0]["width"]
    what["images"][1]["height"] = "high"
    report, repaired, again = check(folder, what)
    assert found(report)["missing size"] == 2 and report.count("error") == 2
    assert repaired["images"] == content()["images"] and found(again) == {}


def test_repairs_by_fix(folder):
    """Each annotation has a repairable error: all are kept, and each repair is counted."""
    what = content()
    one, two, three, four, five, six = what["annotations"]
    one["id"] = None
    two.update(category_id="1", bbox=["30", "20", "28", "18"])
    three.update(iscrowd="no", ignore=None, area=None)
    four["bbox"] = [35, 44, -15, -40]
    five.update(image_id=3.0, iscrowd="0")
    six["id"] = 5
    report, repaired, again = check(folder, what)
    assert found(report) == {
        "missing annotation id": 1,
        "id of another type": 1,
        "number written as text": 2,
        "malformed flag": 1,
        "area from the box": 1,
        "zero or negative box": 1,
        "id written as float": 1,
        "duplicate annotation id": 1,
    }
    assert found(again) == {}
    wanted = boxes_of(content())
    assert boxes_of(repaired) == [*wanted[:3], *wanted[4:], wanted[3]]
    assert len({a["id"] for a in repaired["annotations"]}) == 6
    fixed = "\n".join(report.fixed())
    assert "1 repaired: malformed flag" in fixed and "2 repaired: number written as text" in fixed


def test_boxes_below_the_finest_stride(folder):
    """Images grow to 120 pixels on the short edge: 3 times (40) and 2.5 times (48); stride 32.

    Shorter sides in the resized images: 30, 54, 84, 45, 75, 30. Two of six are below 32.
    """
    report, _, _ = check(folder, content(), resizing=Resizing(120, 1000, 32))
    (said,) = report.found["boxes below the finest stride"]
    assert said.startswith("33 % of the boxes (2 of 6) are smaller than the finest stride, 32")
    assert found(check(folder, content(), resizing=Resizing(120, 1000, 30))[0]) == {}


def deep(values, path):
    Image.fromarray(np.asarray(values)).save(path)


def test_few_of_the_bits_used(folder):
    """A file of 16 bits contains 12-bit values."""
    deep(np.full((40, 60), 4000, dtype=np.uint16), folder / "1.png")
    report, _, _ = check(folder, content())
    assert report.found["few of the bits used"] == ["1.png: at most 4000; white would be 4095"]
    assert "INPUT.WHITE_LEVEL" in str(report)
    deep(np.full((40, 60), 65000, dtype=np.uint16), folder / "1.png")
    assert found(check(folder, content())[0]) == {}


def test_48_bit_colours(folder):
    """Write a PNG of 16 bits a channel by hand, because Pillow cannot; it reads 8 of them."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + b"\x0f\xff" * 3 * 60 for _ in range(40))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 60, 40, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
    ]
    data = b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert found(check(folder, content())[0]) == {"48-bit colours": 1}


def test_values_below_0(folder):
    what = content()
    what["images"][0]["file_name"] = "1.tif"
    deep(np.full((40, 60), -5, dtype=np.int32), folder / "1.tif")
    assert check(folder, what)[0].found["values below 0"] == ["1.tif: -5"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_named_pipes_are_not_opened(folder):
    (folder / "1.png").unlink()
    os.mkfifo(folder / "1.png")
    assert "it is a named pipe" in check(folder, content())[0].found["corrupt file"][0]


def test_all_crowds(folder):
    what = content()
    for annotation in what["annotations"]:
        annotation["iscrowd"] = 1
    report, _, _ = check(folder, what)
    assert "all boxes are crowds" in report.found["no box at all"][0]


def test_boxes_from_polygons(folder):
    """For annotations with polygons only, --fix writes the boxes around them."""
    what = content()
    what["annotations"][0].update(bbox=[], segmentation=[[5, 6, 25, 6, 25, 16], [7, 16, 5, 9]])
    del what["annotations"][1]["bbox"]
    report, repaired, again = check(folder, what)
    assert report.found["annotation without a box"] == [
        "annotations: annotation 1 has no bbox, but polygons",
        "annotations: annotation 2 has no bbox, and no polygons",
    ]
    assert boxes_of(repaired) == [[5, 6, 20, 10], *boxes_of(content())[2:]] and found(again) == {}


def test_ambiguous_image_ids(folder):
    """Two images with one id are left out with their boxes; equal records count as one."""
    what = content()
    what["images"][1]["id"] = 1
    report, repaired, again = check(folder, what)
    assert found(report)["duplicate image id"] == 1
    assert [image["id"] for image in repaired["images"]] == [3]
    assert {a["image_id"] for a in repaired["annotations"]} == {3}
    assert found(again) == {}
    what = content()
    what["images"].append(dict(what["images"][0]))
    assert check(folder, what)[1] == content()


def test_fixed_file_suits_other_programs(folder, capsys):
    """--fix writes json without NaN, with area and iscrowd."""
    what = content()
    what["info"] = {"version": float("nan")}
    what["annotations"][0]["iscrowd"] = None
    (folder / "a.json").write_text(json.dumps(what))
    out = folder / "fixed.json"
    pods_check(["--json", str(folder / "a.json"), "--images", str(folder), "--fix", str(out)])
    written = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert written["info"] == {"version": None}
    assert [a["area"] for a in written["annotations"]][:2] == [200, 504]
    assert {a["iscrowd"] for a in written["annotations"]} == {0}
    capsys.readouterr()


def test_two_classes_of_one_id_are_not_merged(folder, capsys):
    what = content()
    what["categories"][1]["id"] = 1
    (folder / "a.json").write_text(json.dumps(what))
    out = folder / "fixed.json"
    with pytest.raises(SystemExit):
        pods_check(["--json", str(folder / "a.json"), "--images", str(folder), "--fix", str(out)])
    assert "two classes of a.json have the same id" in capsys.readouterr().err and not out.exists()


def test_the_examined_file_is_never_overwritten(folder, monkeypatch, experiment, capsys):
    """The examined file was found below a data root."""
    monkeypatch.setenv("CVPODS_DATASETS", str(folder))
    (folder / "a.json").write_text(json.dumps(content()))
    register = (
        "register_coco_instances('below', 'a.json', '.')\nconfig.MODEL.ATSS.NUM_CLASSES = 2\n"
    )
    config = experiment / "config.py"
    config.write_text(f"{config.read_text()}\n{register}")
    before = (folder / "a.json").read_bytes()
    words = ["--dir", str(experiment), "--dataset", "below", "--fix", str(folder / "a.json")]
    with pytest.raises(SystemExit):
        pods_check(words)
    assert "is the file that is examined" in capsys.readouterr().err
    assert (folder / "a.json").read_bytes() == before


def test_images_of_different_depths(folder):
    """With 16-bit and 12-bit images, one white level makes the latter dark."""
    deep(np.full((40, 60), 4000, dtype=np.uint16), folder / "1.png")
    deep(np.full((60, 40), 65000, dtype=np.uint16), folder / "2.png")
    report, _, _ = check(folder, content())
    assert report.found["images of different depths"] == ["1.png: at most 4000; white is 65535"]


def test_images_with_nan(folder):
    """Depth maps contain NaN: only finite values count, and NaN becomes black."""
    values = np.full((40, 60), 0.5, dtype=np.float32)
    values[0, :2] = np.nan, np.inf
    what = content()
    what["images"][0]["file_name"] = "1.tif"
    deep(values, folder / "1.tif")
    report, _, _ = check(folder, what)
    assert report.count("error") == 0
    pixels = read_image(folder / "1.tif", white_level=1)[0, :3, 0]
    assert pixels.tolist() == [0, 255, 127]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_orientation_of_an_uncompressed_tiff(folder, kind):
    """Orientation 6 turns 60 x 40 to 40 x 60, however Pillow reads the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((40, 60), dtype=kind)
    pixels[:, 0] = np.iinfo(kind).max  # the left column becomes the top row
    Image.fromarray(pixels).save(folder / "1.tif", exif=exif)
    turned = read_image(folder / "1.tif")
    assert turned.shape == (60, 40, 3) and turned[0].min() == 255 and turned[1:].max() == 0
    what = content()
    what["images"][0]["file_name"] = "1.tif"
    report, _, _ = check(folder, what)
    assert found(report)["EXIF orientation"] == 1
    assert (
        "annotated 60 x 40 (the size before the EXIF"
        in report.found["other size than annotated"][0]
    )


def test_sizes_are_read_beyond_the_sample(folder):
    what = content()
    for image in what["images"]:
        del image["width"]
    _, repaired = check_coco("a", what, folder, files=1)
    assert repaired["images"] == content()["images"]
