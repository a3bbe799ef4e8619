"""Whole files in another convention: each is recognised, explained, and mended if that is safe."""

from __future__ import annotations

import copy
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cvpods.data.check import Resizing, check_coco

SIZES = {1: (60, 40), 2: (40, 60), 3: (64, 48)}  # width, height


@pytest.fixture
def folder(tmp_path):
    for id_, (width, height) in SIZES.items():
        pixels = np.full((height, width, 3), 40 * id_, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{id_}.png")
    return tmp_path


def content():
    """Two boxes in each image, all over it: x, y, width, height in pixels."""
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
    """The report, and that of what --fix would write."""
    report, mended = check_coco("a", what, folder, **options)
    again, _ = check_coco("a", mended, folder)
    return report, mended, again


def test_coco_itself_has_nothing_to_say(folder):
    report, mended, _ = check(folder, content())
    assert found(report) == {} and mended == content()


def test_corners(folder):
    """x, y, width, height of the first box, 5, 6, 20, 10, are the corners 5, 6, 25, 16."""
    what = content()
    for annotation in what["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]
    report, _, _ = check(folder, what)
    assert "boxes written as x1, y1, x2, y2" in found(report)
    assert "--boxes xyxy --fix" in str(report)
    _, mended, again = check(folder, what, box_format="xyxy")
    assert [a["bbox"] for a in mended["annotations"]] == [
        a["bbox"] for a in content()["annotations"]
    ]
    assert found(again) == {}


def test_fractions(folder):
    what = content()
    for annotation in what["annotations"]:
        width, height = SIZES[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x / width, y / height, w / width, h / height]
    report, _, _ = check(folder, what)
    assert "boxes written as fractions" in found(report)
    _, mended, again = check(folder, what, box_format="fractions")
    for annotation, original in zip(mended["annotations"], content()["annotations"], strict=True):
        assert annotation["bbox"] == pytest.approx(original["bbox"])
    assert found(again) == {}


def test_one_file_under_two_ids(folder):
    what = content()
    what["images"].append({**what["images"][0], "id": 9})
    report, _, _ = check(folder, what)
    assert report.found["one file under two ids"] == ["1.png: ids [1, 9]"]


def test_the_same_box_twice(folder):
    what = content()
    what["annotations"].append({**what["annotations"][2], "id": 77})
    report, mended, again = check(folder, what)
    assert report.found["the same box twice"] == ["annotations 3 and 77"]
    assert mended == content() and found(again) == {}


def test_a_root_class(folder):
    """Roboflow lists the project as a class of its own, without boxes."""
    what = content()
    for category in what["categories"]:
        category["supercategory"] = "pets"
    real = copy.deepcopy(what["categories"])
    what["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
    report, mended, again = check(folder, what)
    assert found(report) == {"root class": 1} and "--fix removes it" in str(report)
    assert mended["categories"] == real and found(again) == {}


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
    report, mended, again = check(folder, what)
    assert found(report) == {"file names in another notation": 1}
    assert mended["images"][0]["file_name"] == "sub/1.png" and found(again) == {}


def test_file_names_that_no_system_takes(folder):
    """Too long, or half of a surrogate pair: errors that name the image, not tracebacks."""
    what = content()
    what["images"][0]["file_name"] = "a" * 5000
    what["images"][1]["file_name"] = "\ud800.png"
    report, mended, _ = check(folder, what)
    assert {"missing file": 1, "malformed record": 1}.items() <= found(report).items()
    assert [image["id"] for image in mended["images"]] == [3]


def test_exif_orientation(folder):
    """6 turns a file of 60 x 40 to 40 x 60; annotated as stored, it is refused and explained."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "1.png").convert("RGB").save(folder / "1.png", exif=exif)
    report, _, _ = check(folder, content())
    assert found(report)["EXIF orientation"] == 1
    assert (
        "(the size before it is turned as EXIF says)"
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
    report, mended, again = check(folder, what)
    assert found(report)["missing size"] == 2 and report.count("error") == 2
    assert mended["images"] == content()["images"] and found(again) == {}


def test_what_fix_mends(folder):
    """Every annotation has one thing that can be mended: none is lost, and each is counted."""
    what = content()
    one, two, three, four, five, six = what["annotations"]
    one["id"] = None
    two.update(category_id="1", bbox=["30", "20", "28", "18"])
    three.update(iscrowd="no", ignore=None, area=None)
    four["bbox"] = [35, 44, -15, -40]
    five.update(image_id=3.0, iscrowd="0")
    six["id"] = 5
    report, mended, again = check(folder, what)
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
    assert boxes_of(mended) == [*wanted[:3], *wanted[4:], wanted[3]]
    assert len({a["id"] for a in mended["annotations"]}) == 6
    fixed = "\n".join(report.fixed())
    assert "1 mended: malformed flag" in fixed and "2 mended: number written as text" in fixed


def test_boxes_below_the_finest_stride(folder):
    """At most 120 pixels on the short edge: images grow 3 (40) and 2.5 times (48); stride 32.

    Shorter sides in the resized images: 30, 54, 84, 45, 75, 30. Two of six are below 32.
    """
    report, _, _ = check(folder, content(), resizing=Resizing(120, 1000, 32))
    (said,) = report.found["boxes below the finest stride"]
    assert said.startswith("33 % of the boxes (2 of 6) are smaller than the finest stride, 32")
    assert found(check(folder, content(), resizing=Resizing(120, 1000, 30))[0]) == {}


def deep(values, path):
    Image.fromarray(np.asarray(values)).save(path)


def test_few_of_the_bits_used(folder):
    """12 bits in a file of 16."""
    deep(np.full((40, 60), 4000, dtype=np.uint16), folder / "1.png")
    report, _, _ = check(folder, content())
    assert report.found["few of the bits used"] == ["1.png: at most 4000; white would be 4095"]
    assert "INPUT.WHITE_LEVEL" in str(report)
    deep(np.full((40, 60), 65000, dtype=np.uint16), folder / "1.png")
    assert found(check(folder, content())[0]) == {}


def test_48_bit_colours(folder):
    """A PNG of 16 bits a channel, of which Pillow reads 8: written by hand, Pillow writes none."""

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
