"""Data sets: COCO's json, VOC's xml, their names, and the search for their files."""

import copy
import json
import os

import numpy as np
import pytest
from PIL import Image

from cvpods.configs import BaseDetectionConfig
from cvpods.data import DATASETS, PATH_ROUTES, build_dataset, register_coco_instances
from cvpods.data.datasets import COCODataset, ConcatDataset, VOCDataset
from cvpods.data.detection_utils import SizeMismatchError
from cvpods.data.transforms import HFlipTransform
from cvpods.evaluation import evaluate_boxes
from cvpods.structures import BoxMode
from cvpods.utils.errors import DataError

# Ids neither contiguous nor in order.
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


@pytest.fixture(autouse=True)
def own_tables(monkeypatch, tmp_path):
    """Give each test its own registries, and an empty working folder without data roots."""
    monkeypatch.setattr(PATH_ROUTES, "_objects", copy.deepcopy(PATH_ROUTES._objects))
    monkeypatch.setattr(DATASETS, "_objects", dict(DATASETS._objects))
    monkeypatch.delenv("CVPODS_DATASETS", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def image(id_, width=8, height=6):
    return {"id": id_, "file_name": f"{id_}.png", "width": width, "height": height}


def box(id_, image_id, bbox=(1, 1, 4, 3), category_id=3, **more):
    where = {"id": id_, "image_id": image_id}
    return {**where, "bbox": bbox, "category_id": category_id, **more}


def content(images, annotations=None, categories=CATEGORIES):
    result = {"images": images, "categories": categories}
    return result if annotations is None else {**result, "annotations": annotations}


def write_image(path, width=8, height=6):
    """Write a picture whose pixel (y, x) is red 10 x, green 10 y, blue 200."""
    pixels = np.full((height, width, 3), 200, dtype=np.uint8)
    pixels[..., 0] = 10 * np.arange(width)
    pixels[..., 1] = 10 * np.arange(height)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")


def write(folder, what, name="cells"):
    """Write a data set's json and images below `folder` and register it."""
    folder.mkdir(parents=True, exist_ok=True)
    json_file = folder / f"{name}.json"
    json_file.write_text(what if isinstance(what, str) else json.dumps(what))
    if isinstance(what, dict):
        for record in what.get("images", []):
            if isinstance(record, dict) and "file_name" in record:
                write_image(folder / "images" / record["file_name"])
    (folder / "images").mkdir(exist_ok=True)
    register_coco_instances(name, json_file, folder / "images")
    return json_file


def config(filter_empty=True, image_format="BGR"):
    cfg = BaseDetectionConfig()
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    cfg.INPUT.FORMAT = image_format
    return cfg


def load(folder, what, *, is_train=True, filter_empty=True, **kwargs):
    write(folder, what)
    return COCODataset(config(filter_empty), "cells", is_train=is_train, **kwargs)


# -- reading COCO's json ---------------------------------------------------------------------------


def test_category_ids_become_contiguous(tmp_path):
    """Sorted ids 3 (cat), 7 (dog) -> 0, 1."""
    boxes = [box(1, 5, category_id=7), box(2, 5, category_id=3)]
    dataset = load(tmp_path, content([image(5)], boxes))
    assert dataset.meta["thing_classes"] == ["cat", "dog"]
    assert dataset.meta["thing_dataset_id_to_contiguous_id"] == {3: 0, 7: 1}
    assert [a["category_id"] for a in dataset.dataset_dicts[0]["annotations"]] == [1, 0]
    assert dataset[0]["instances"].gt_classes.tolist() == [1, 0]


def test_meta_names_files_and_evaluator(tmp_path):
    dataset = load(tmp_path, content([image(5)], [box(1, 5)]))
    assert dataset.meta["json_file"] == str(tmp_path / "cells.json")
    assert dataset.meta["image_root"] == str(tmp_path / "images")
    assert dataset.meta["evaluator_type"] == "coco"


def test_images_come_by_id_with_their_own_boxes(tmp_path):
    images = [image(30), image(4), image(11)]
    boxes = [box(1, 4, (0, 0, 1, 1)), box(2, 30, (0, 0, 2, 2)), box(3, 11, (0, 0, 3, 3))]
    dataset = load(tmp_path, content(images, boxes))
    assert [d["image_id"] for d in dataset.dataset_dicts] == [4, 11, 30]
    assert [d["annotations"][0]["bbox"][2] for d in dataset.dataset_dicts] == [1, 3, 2]
    assert dataset.dataset_dicts[1]["file_name"] == str(tmp_path / "images" / "11.png")


def test_crowd_boxes_stay_in_the_records_and_leave_the_samples(tmp_path):
    boxes = [box(1, 5, (0, 0, 2, 2)), box(2, 5, (1, 1, 3, 3), iscrowd=1)]
    dataset = load(tmp_path, content([image(5)], boxes))
    assert [a["iscrowd"] for a in dataset.dataset_dicts[0]["annotations"]] == [0, 1]
    assert dataset[0]["instances"].gt_boxes.tensor.tolist() == [[0, 0, 2, 2]]


SIZELESS = [
    (1, 1, 0, 3),
    (1, 1, 4, 0),
    (1, 1, -4, 3),
    (1, 1, 4, -3),
    (float("nan"), 1, 4, 3),
    (1, 1, float("nan"), 3),
    (1, 1, 4, float("inf")),
]
# Not four numbers, so the intended box is unknown.
MALFORMED = [(1, 1, 4), (1, 1, 4, "wide"), (1, 1, 4, None), {}, "1 1 4 3", (1, 1, 4, 3, 1)]


@pytest.mark.parametrize("bad", SIZELESS)
def test_boxes_without_area_are_left_out(tmp_path, log, bad):
    dataset = load(tmp_path, content([image(5)], [box(1, 5, bad), box(2, 5, (2, 1, 4, 3))]))
    kept = dataset.dataset_dicts[0]["annotations"]
    assert [a["bbox"] for a in kept] == [[2, 1, 4, 3]]
    assert any("WARNING" in line and "cells.json" in line and "1 boxes" in line for line in log)


@pytest.mark.parametrize("bad", SIZELESS)
def test_boxes_without_area_do_not_count_in_evaluation(tmp_path, bad):
    """They cannot be detected: with the other box detected, AP is 100."""
    good = {"bbox": [2, 1, 4, 3], "category_id": 3}
    what = content([image(5)], [box(1, 5, bad), box(2, 5, **good)])
    truth = load(tmp_path, what).coco_ground_truth()
    for annotation in truth["annotations"]:
        annotation.update(area=12, iscrowd=0)
    metrics, _, _ = evaluate_boxes(truth, [{"image_id": 5, "score": 0.5, **good}])
    assert metrics["AP"] == pytest.approx(100)


def test_fractions_of_pixels_survive(tmp_path):
    """x 1.25, y 0.5, width 4.75, height 3.125 -> corners 1.25, 0.5, 6.0, 3.625."""
    dataset = load(tmp_path, content([image(5)], [box(1, 5, (1.25, 0.5, 4.75, 3.125))]))
    assert dataset[0]["instances"].gt_boxes.tensor.tolist() == [[1.25, 0.5, 6.0, 3.625]]


def test_whole_numbers_become_floats(tmp_path):
    annotation = load(tmp_path, content([image(5)], [box(1, 5)])).dataset_dicts[0]["annotations"][0]
    assert all(type(value) is float for value in annotation["bbox"])
    assert annotation["bbox_mode"] == BoxMode.XYWH_ABS


def test_samples_are_clipped_to_the_image_and_emptied_boxes_dropped(tmp_path):
    """The image is 8 x 6: the first box is cut at its corner, the second lies outside."""
    boxes = [box(1, 5, (6, 4, 10, 10)), box(2, 5, (9, 1, 4, 4))]
    instances = load(tmp_path, content([image(5)], boxes))[0]["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[6, 4, 8, 6]]
    assert instances.image_size == (6, 8)


@pytest.mark.parametrize(
    "is_train, filter_empty, kept",
    [(True, True, [1]), (True, False, [1, 2, 3]), (False, True, [1, 2, 3])],
)
def test_images_without_boxes(tmp_path, is_train, filter_empty, kept):
    """Image 2 has no box, image 3 only a crowd; the config decides if training keeps them."""
    images = [image(1), image(2), image(3)]
    boxes = [box(1, 1), box(2, 3, iscrowd=1)]
    dataset = load(tmp_path, content(images, boxes), is_train=is_train, filter_empty=filter_empty)
    assert [d["image_id"] for d in dataset.dataset_dicts] == kept
    assert [len(dataset[i]["instances"]) for i in range(len(kept))] == [1, 0, 0][: len(kept)]


def test_no_image_left_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"'cells' has no images with boxes.*cells\.json"):
        load(tmp_path, content([image(1)], []))


def test_a_test_set_without_annotations(tmp_path):
    dataset = load(tmp_path, content([image(1)]), is_train=False)
    assert dataset.coco_ground_truth() is None
    assert len(dataset[0]["instances"]) == 0


def test_ground_truth_is_the_file(tmp_path):
    what = content([image(1)], [box(1, 1, [0, 0, 2, 2], iscrowd=0)])
    assert load(tmp_path, what).coco_ground_truth() == what


def without(record, key):
    return {k: v for k, v in record.items() if k != key}


@pytest.mark.parametrize(
    "what, said",
    [
        (content([image(1)], [box(44, 1, category_id=99)]), ["44", "99", "[3, 7]"]),
        (content([image(1)], [box(1, 1), box(2, 1234)]), ["1234"]),
        (content([without(image(1), "height")], []), ["images", "height"]),
        (content([without(image(1), "file_name")], []), ["images", "file_name"]),
        (content([image(1)], [without(box(1, 1), "bbox")]), ["annotations", "bbox"]),
        (content([image(1)], [without(box(1, 1), "category_id")]), ["annotations", "category_id"]),
        (content([image(1)], [box(1, 1)], [{"id": 3}]), ["categories", "name"]),
        (content([image(1)], [5]), ["annotations", "5"]),
        ({"categories": CATEGORIES}, ["images"]),
        ({"images": [image(1)]}, ["categories"]),
        (content([image(1)], "many"), ["annotations"]),
        (content([image(1)], [box(1, 1)], CATEGORIES * 2), ["id 3", "id 7", "2 times"]),
        (content([image(1)], [], []), ["[]"]),
        ("{'images': [", ["json"]),
        ("", ["json"]),
        ("[1, 2]", ["object"]),
        ("7", ["object"]),
        ("[" * 100_000, ["json"]),
    ],
)
def test_unusable_records_are_named(tmp_path, what, said):
    with pytest.raises(DataError) as raised:
        load(tmp_path, what)
    for part in ["cells.json", *said]:
        assert part in str(raised.value)


def test_binary_file_is_refused(tmp_path):
    write(tmp_path, "").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match=r"cells\.json cannot be read as json"):
        COCODataset(config(), "cells")


def test_images_that_occur_twice_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"cells\.json: duplicate image id: id 1 occurs 2 times"):
        load(tmp_path, content([image(1), image(1)], [box(1, 1)]))


@pytest.mark.parametrize("ids", [(1, 1), (None, None), (None, 1), ("a", "a"), (0, -1)])
def test_annotations_need_no_ids_of_their_own(tmp_path, ids):
    """COCO 2014's minival repeats some; annotations are never looked up by id."""
    boxes = [box(ids[0], 1, [0, 0, 2, 2]), box(ids[1], 1, [3, 3, 2, 2])]
    dataset = load(tmp_path, content([image(1)], boxes))
    assert len(dataset[0]["instances"]) == 2
    perfect = [{"image_id": 1, "category_id": 3, "bbox": b["bbox"], "score": 0.5} for b in boxes]
    truth = dataset.coco_ground_truth()
    assert evaluate_boxes(truth, perfect)[0]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("bad", MALFORMED)
def test_malformed_boxes_are_refused(tmp_path, bad):
    with pytest.raises(DataError, match=r"cells\.json: malformed box: annotation 8: .*--fix"):
        load(tmp_path, content([image(5)], [box(8, 5, bad), box(2, 5, (2, 1, 4, 3))]))


@pytest.mark.parametrize("bad", [{"bbox": None}, {"bbox": []}, {}])
def test_annotations_by_polygons_or_keypoints_alone_are_refused(tmp_path, bad):
    annotation = {"id": 8, "image_id": 5, "category_id": 3, "keypoints": [1, 2, 2], **bad}
    with pytest.raises(DataError, match=r"annotation 8 has no bbox, and no polygons.*--fix"):
        load(tmp_path, content([image(5)], [annotation, box(2, 5)]))


def test_numbers_written_as_texts_are_read(tmp_path):
    """Boxes, sides, flags; whole numbers as floats; null is the same as absent."""
    record = {**image(5), "height": "6", "width": 8.0, "id": 5.0}
    boxes = [
        box(1.0, 5, ["2", " 1", "4.0", "3e0"], iscrowd="0", ignore=None, area="12"),
        box(2, 5, (0, 0, 8, 6), iscrowd="1", area=None),
        box(3, 5, (0, 0, 8, 6), iscrowd=None, area=0),
    ]
    dataset = load(tmp_path, content([record], boxes))
    read = dataset.dataset_dicts[0]
    assert (read["height"], read["width"], read["image_id"]) == (6, 8, 5)
    assert [a["bbox"] for a in read["annotations"]] == [[2, 1, 4, 3], [0, 0, 8, 6], [0, 0, 8, 6]]
    assert [a["iscrowd"] for a in read["annotations"]] == [0, 1, 0]
    areas = [a["area"] for a in dataset.coco_ground_truth()["annotations"]]
    assert areas == [12, 48, 48]


@pytest.mark.parametrize(
    "key, bad", [("iscrowd", 2), ("iscrowd", "yes"), ("ignore", -1), ("ignore", [])]
)
def test_flags_are_0_or_1(tmp_path, key, bad):
    with pytest.raises(DataError, match=rf"malformed flag: annotation 8: {key} .* is not 0 or 1"):
        load(tmp_path, content([image(5)], [box(8, 5, **{key: bad})]))


def test_ids_of_another_type_are_named_as_such(tmp_path):
    said = r"category_id '7' of annotation 8 is a text; 'categories' has 7, a number"
    with pytest.raises(DataError, match=said):
        load(tmp_path, content([image(5)], [box(8, 5, category_id="7")]))


def test_byte_order_mark(tmp_path):
    write(tmp_path, content([image(5)], [box(1, 5)]))
    path = tmp_path / "cells.json"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert path.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert len(COCODataset(config(), "cells")) == 1


@pytest.mark.parametrize(
    "start, said",
    [
        (b"\x1f\x8b\x08", "compressed by gzip; unpack it"),
        (b"PK\x03\x04", "a zip archive; unpack it"),
        ("{}".encode("utf-16"), "text in UTF-16; write it in UTF-8"),
    ],
)
def test_files_in_another_encoding_are_named(tmp_path, start, said):
    write(tmp_path, "")
    (tmp_path / "cells.json").write_bytes(start)
    with pytest.raises(DataError, match=said):
        COCODataset(config(), "cells")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_named_pipes_are_refused_at_once(tmp_path):
    """Opening a pipe would block until another process writes to it."""
    dataset = load(tmp_path, content([image(5)], [box(1, 5)]))
    (tmp_path / "images" / "5.png").unlink()
    os.mkfifo(tmp_path / "images" / "5.png")
    with pytest.raises(DataError, match=r"5\.png cannot be read: it is a named pipe"):
        dataset[0]
    (tmp_path / "cells.json").unlink()
    os.mkfifo(tmp_path / "cells.json")
    with pytest.raises(DataError, match=r"cells\.json cannot be read as json: it is a named pipe"):
        COCODataset(config(), "cells")


# -- samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order, expected", [("BGR", [200, 20, 30]), ("RGB", [30, 20, 200])])
def test_sample(tmp_path, order, expected):
    """Pixel x = 3, y = 2 is red 30, green 20, blue 200."""
    write(tmp_path, content([image(5)], [box(1, 5)]))
    sample = COCODataset(config(image_format=order), "cells")[0]
    assert sample["image"].shape == (3, 6, 8)
    assert sample["image"].dtype.is_floating_point is False
    assert sample["image"][:, 2, 3].tolist() == expected
    assert (sample["height"], sample["width"], sample["image_id"]) == (6, 8, 5)
    assert sample["file_name"].endswith("5.png")
    assert "annotations" not in sample


def test_samples_leave_the_records_alone(tmp_path):
    """Flip an image 8 pixels wide: x 1..5 -> 3..7, each time that the sample is read."""
    transforms = [HFlipTransform(8)]
    dataset = load(tmp_path, content([image(5)], [box(1, 5)]), transforms=transforms)
    before = copy.deepcopy(dataset.dataset_dicts)
    first, second = (dataset[0]["instances"].gt_boxes.tensor.tolist() for _ in range(2))
    assert first == second == [[3, 1, 7, 4]]
    assert dataset.dataset_dicts == before


def test_image_of_another_size(tmp_path):
    dataset = load(tmp_path, content([image(5, width=9)], [box(1, 5)]))
    with pytest.raises(SizeMismatchError, match=r"5\.png is 8 x 6 pixels.*says 9 x 6"):
        dataset[0]


def test_missing_image(tmp_path):
    dataset = load(tmp_path, content([image(5)], [box(1, 5)]))
    (tmp_path / "images" / "5.png").unlink()
    with pytest.raises(DataError, match=r"images/5\.png does not exist"):
        dataset[0]


def test_aspect_ratios(tmp_path):
    """The ratio is 1 if the image is wider than high: 8 x 6, 6 x 8, 6 x 6."""
    sizes = {1: (8, 6), 2: (6, 8), 3: (6, 6)}
    images = [image(id_, *size) for id_, size in sizes.items()]
    dataset = load(tmp_path, content(images, [box(i, i) for i in sizes]))
    assert dataset.aspect_ratios.tolist() == [1, 0, 0]


# -- concatenation ---------------------------------------------------------------------------------


def two(tmp_path, other=CATEGORIES):
    write(tmp_path / "a", content([image(1), image(2)], [box(1, 1), box(2, 2)]), "first")
    tall = [image(3, 6, 8)]
    write(tmp_path / "b", content(tall, [box(1, 3, category_id=3)], other), "second")
    return build_dataset(config(), ["first", "second"])


def test_concatenation(tmp_path):
    joined = two(tmp_path)
    assert isinstance(joined, ConcatDataset)
    assert len(joined) == 3
    assert joined.aspect_ratios.tolist() == [1, 1, 0]
    assert [joined[i]["image_id"] for i in range(2)] == [1, 2]
    write_image(tmp_path / "b" / "images" / "3.png", 6, 8)
    assert joined[2]["image_id"] == 3
    assert joined.meta.thing_classes == ["cat", "dog"]
    assert joined.meta.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


def test_concatenation_ends(tmp_path):
    joined = two(tmp_path)
    write_image(tmp_path / "b" / "images" / "3.png", 6, 8)
    assert [sample["image_id"] for sample in joined] == [1, 2, 3]
    with pytest.raises(IndexError):
        joined[3]


def test_concatenation_counts_from_the_end(tmp_path):
    joined = two(tmp_path)
    write_image(tmp_path / "b" / "images" / "3.png", 6, 8)
    assert [joined[i]["image_id"] for i in (-1, -2, -3)] == [3, 2, 1]


def test_concatenation_needs_the_same_classes(tmp_path):
    with pytest.raises(DataError, match="'first' and 'second'.*cat.*dog.*bird") as raised:
        two(tmp_path, [{"id": 3, "name": "bird"}])
    assert "\n" not in str(raised.value)


# -- names and paths -------------------------------------------------------------------------------


def test_registered_in_one_line(tmp_path):
    """Relative paths are searched in the working folder."""
    write(tmp_path / "work", content([image(5)], [box(1, 5)]), "other")
    register_coco_instances("my_cells", "other.json", "images")
    assert len(build_dataset(config(), ["my_cells"])) == 1


def test_registering_again_replaces(tmp_path):
    write(tmp_path / "a", content([image(1)], [box(1, 1)]))
    write(tmp_path / "b", content([image(1), image(2)], [box(1, 1), box(2, 2)]))
    assert len(COCODataset(config(), "cells")) == 2


@pytest.mark.parametrize("name", ["coco", "voc", "coco_2017_val", "coco_mine"])
def test_registering_leaves_the_known_names_alone(tmp_path, monkeypatch, name):
    monkeypatch.setenv("CVPODS_DATASETS", str(tmp_path / "root"))
    write(tmp_path / "own", content([image(1), image(2)], [box(1, 1), box(2, 2)]), name)
    put_coco(tmp_path / "root", split="train2017")
    assert len(build_dataset(config(), [name])) == 2
    assert len(build_dataset(config(), ["coco_2017_train"])) == 1


def test_names_that_differ_in_case_are_two(tmp_path):
    write(tmp_path / "a", content([image(1)], [box(1, 1)]), "cells")
    write(tmp_path / "b", content([image(1), image(2)], [box(1, 1), box(2, 2)]), "Cells")
    assert [len(build_dataset(config(), [name])) for name in ("cells", "Cells")] == [1, 2]


def put_coco(root, images="coco/{split}", split="val2017"):
    """Write COCO's own layout with one image."""
    write_image(root / images.format(split=split) / "5.png")
    json_file = root / "coco" / "annotations" / f"instances_{split}.json"
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(content([image(5)], [box(1, 5)])))


@pytest.mark.parametrize("layout", ["coco/{split}", "coco/images/{split}"])
@pytest.mark.parametrize(
    "variable, root", [(True, "elsewhere"), (False, "work/datasets"), (False, "datasets")]
)
def test_data_roots(tmp_path, monkeypatch, variable, root, layout):
    """$CVPODS_DATASETS; datasets/ in the working folder; datasets/ in a folder above."""
    if variable:
        monkeypatch.setenv("CVPODS_DATASETS", str(tmp_path / root))
    put_coco(tmp_path / root, layout)
    dataset = COCODataset(config(), "coco_2017_val")
    found = tmp_path / root / layout.format(split="val2017") / "5.png"
    assert found.samefile(dataset.dataset_dicts[0]["file_name"])
    assert dataset[0]["image_id"] == 5


def test_the_variable_wins(tmp_path, monkeypatch):
    put_coco(tmp_path / "datasets")
    put_coco(tmp_path / "named")
    monkeypatch.setenv("CVPODS_DATASETS", str(tmp_path / "named"))
    meta = COCODataset(config(), "coco_2017_val").meta
    assert meta["image_root"] == str(tmp_path / "named" / "coco" / "val2017")
    assert meta["json_file"].startswith(str(tmp_path / "named"))


def test_the_nearest_folder_wins(tmp_path, monkeypatch):
    put_coco(tmp_path / "datasets")
    put_coco(tmp_path / "work" / "datasets")
    root = COCODataset(config(), "coco_2017_val").meta["image_root"]
    assert (tmp_path / "work" / "datasets" / "coco" / "val2017").samefile(root)


@pytest.mark.parametrize(
    "name, near",
    [
        ("coco_2017_vall", "coco_2017_val"),
        ("COCO_2017_val", "coco_2017_val"),
        ("voc_2007_tran", "voc_2007_train"),
        ("shape_train", "shapes_train"),
    ],
)
def test_unknown_name(name, near):
    register_coco_instances("shapes_train", "a.json", "images")
    with pytest.raises(DataError) as raised:
        build_dataset(config(), [name])
    assert repr(name) in str(raised.value)
    assert f"Did you mean {near}?" in str(raised.value)
    assert "register_coco_instances" in str(raised.value)


def test_unknown_name_without_a_similar_one():
    with pytest.raises(DataError) as raised:
        build_dataset(config(), ["zzz"])
    assert "Did you mean" not in str(raised.value)
    assert "coco_2017_train" in str(raised.value)


def test_missing_folder_names_every_path_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("CVPODS_DATASETS", str(tmp_path / "named"))
    (tmp_path / "datasets").mkdir()
    with pytest.raises(DataError) as raised:
        COCODataset(config(), "coco_2017_val")
    said = str(raised.value)
    for root in (tmp_path / "named", tmp_path / "datasets"):
        assert str(root / "coco" / "val2017") in said
        assert str(root / "coco" / "images" / "val2017") in said
    assert "'coco_2017_val'" in said
    assert "$CVPODS_DATASETS" in said


def test_missing_annotation_file(tmp_path):
    put_coco(tmp_path / "datasets")
    (tmp_path / "datasets" / "coco" / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(DataError, match=r"annotation file of 'coco_2017_val' was not found"):
        COCODataset(config(), "coco_2017_val")


def test_names_added_to_a_live_route(tmp_path):
    """Experiments add names by updating the registered dict."""
    put_coco(tmp_path / "datasets")
    names = {"coco_part": ("coco/val2017", "coco/annotations/instances_val2017.json")}
    PATH_ROUTES.get("COCO")["coco"].update(names)
    assert len(build_dataset(config(), ["coco_part"])) == 1


def test_own_class_for_a_route(tmp_path):
    """Experiments name a subclass as the route's dataset_type."""

    @DATASETS.register()
    class COCOPartial(COCODataset):
        def _load_annotations(self):
            return super()._load_annotations()[:1]

    write(tmp_path, content([image(1), image(2)], [box(1, 1), box(2, 2)]))
    files = (str(tmp_path / "images"), str(tmp_path / "cells.json"))
    PATH_ROUTES.get("COCO")["coco"].update({"coco_part": files})
    PATH_ROUTES.get("COCO")["dataset_type"] = "COCOPartial"
    dataset = build_dataset(config(), ["coco_part"])
    assert isinstance(dataset.datasets[0], COCOPartial)
    assert len(dataset) == 1


def test_own_route(tmp_path):
    """A route may have a task without names yet."""
    write(tmp_path, content([image(1)], [box(1, 1)]))
    own = {
        "dataset_type": "COCODataset",
        "evaluator_type": {"box": "coco", "person": "coco"},
        "box": {"farm_train": (str(tmp_path / "images"), str(tmp_path / "cells.json"))},
    }
    PATH_ROUTES.register(own, "FARM")
    assert len(build_dataset(config(), ["farm_train"])) == 1


# -- VOC -------------------------------------------------------------------------------------------

VOC_OBJECT = """<object><name>{name}</name>{difficult}<bndbox>
<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"""


def voc_object(name, x1, y1, x2, y2, difficult=None):
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return VOC_OBJECT.format(name=name, difficult=flag, x1=x1, y1=y1, x2=x2, y2=y2)


def voc(tmp_path, objects, split="val", size=(8, 6)):
    """Write a VOC2007 tree with one image; return its annotation file."""
    root = tmp_path / "datasets" / "voc" / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    write_image(root / "JPEGImages" / "000012.jpg")
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("000012\n")
    xml = root / "Annotations" / "000012.xml"
    outline = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    xml.write_text(f"<annotation>{outline}{''.join(objects)}</annotation>")
    return xml


def test_voc_boxes_are_counted_from_one(tmp_path):
    """First and last pixel 1..8, 1..6, both included: all of the 8 x 6 image, 0..8 and 0..6."""
    voc(tmp_path, [voc_object("dog", 1, 1, 8, 6), voc_object("aeroplane", 3, 2, 3, 2)])
    dataset = VOCDataset(config(), "voc_2007_val")
    instances = dataset[0]["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 8, 6], [2, 1, 3, 2]]
    assert instances.gt_classes.tolist() == [dataset.meta["thing_classes"].index("dog"), 0]
    assert (dataset[0]["height"], dataset[0]["width"]) == (6, 8)


def test_voc_has_20_classes(tmp_path):
    voc(tmp_path, [voc_object("dog", 1, 1, 8, 6)])
    dataset = build_dataset(config(), ["voc_2007_val"], is_train=False)
    assert len(dataset.meta.thing_classes) == 20
    assert dataset.meta.thing_classes == sorted(dataset.meta.thing_classes)
    assert dataset.meta.evaluator_type == "coco"


def test_voc_difficult_objects(tmp_path):
    """Training uses them; the ground truth marks them."""
    objects = [voc_object("dog", 1, 1, 4, 4, 0), voc_object("cat", 2, 2, 5, 5, 1)]
    voc(tmp_path, [*objects, voc_object("cow", 3, 3, 6, 6)])
    dataset = VOCDataset(config(), "voc_2007_val")
    assert len(dataset[0]["instances"]) == 3
    assert [a["difficult"] for a in dataset.dataset_dicts[0]["annotations"]] == [0, 1, 0]
    truth = dataset.coco_ground_truth()
    assert [a["ignore"] for a in truth["annotations"]] == [0, 1, 0]


def test_voc_ground_truth(tmp_path):
    """Corners 2, 3, 5, 4 counted from 1 -> x 1, y 2, width 4, height 2, area 8."""
    voc(tmp_path, [voc_object("bicycle", 2, 3, 5, 4)])
    truth = VOCDataset(config(), "voc_2007_val").coco_ground_truth()
    (annotation,) = truth["annotations"]
    assert (annotation["bbox"], annotation["area"]) == ([1, 2, 4, 2], 8)
    assert {c["id"]: c["name"] for c in truth["categories"]}[annotation["category_id"]] == "bicycle"
    assert truth["images"][0]["id"] == annotation["image_id"]


@pytest.mark.parametrize(
    "objects",
    [
        [voc_object("unicorn", 1, 1, 4, 4)],
        [voc_object("dog", 1, "one", 4, 4)],
        ["<object><name>dog</name></object>"],
        ["<object>"],
    ],
)
def test_voc_unusable_annotation(tmp_path, objects):
    voc(tmp_path, objects)
    with pytest.raises(DataError, match=r"000012\.xml"):
        VOCDataset(config(), "voc_2007_val")


def test_voc_missing_files(tmp_path):
    voc(tmp_path, []).unlink()
    with pytest.raises(DataError, match=r"000012\.xml"):
        VOCDataset(config(), "voc_2007_val")
    with pytest.raises(DataError, match=r"Main/test\.txt of 'voc_2007_test' does not exist"):
        VOCDataset(config(), "voc_2007_test")


@pytest.mark.parametrize(
    "change, said",
    [
        (
            ("<name>dog", "<name>plate"),
            "'plate' is not one of the 20 classes of VOC.*COCO's format",
        ),
        (("<width>8</width>", ""), "<size/width> is missing"),
        (("<xmax>4</xmax>", ""), "<bndbox/xmax> is missing"),
        (("<xmax>4</xmax>", "<xmax>nan</xmax>"), "has no area"),
        (("<ymin>1</ymin>", "<ymin>one</ymin>"), "'one' is not a number"),
    ],
)
def test_voc_errors_name_the_problem(tmp_path, change, said):
    path = voc(tmp_path, [voc_object("dog", 1, 1, 4, 4)])
    text = "".join(path.read_text().split("\n"))
    assert change[0] in text, text
    path.write_text(text.replace(*change))
    with pytest.raises(DataError, match=said):
        VOCDataset(config(), "voc_2007_val")
