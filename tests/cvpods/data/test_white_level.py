"""Images of more than 8 bits: one white level for a data set."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from cvpods.checkpoint.expectations import check_expectations
from cvpods.configs import BaseConfig
from cvpods.data import register_coco_instances
from cvpods.data.build import build_dataset
from cvpods.data.datasets import COCODataset
from cvpods.data.detection_utils import read_image
from cvpods.data.white_level import (
    KEY,
    expected_white_level,
    level_of,
    level_of_files,
    settle_white_level,
)
from cvpods.utils.errors import ConfigError
from cvpods.utils.ranges import read_auto


def save(folder, values, name="a.tif"):
    Image.fromarray(np.asarray(values)).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    "highest, is_float, level",
    [
        (0, False, 255), (255, False, 255), (256, False, 1023), (1000, False, 1023),
        (4095, False, 4095), (4096, False, 16383), (65535, False, 65535), (65536, False, 131071),
        (0.7, True, 1), (1.0, True, 1), (1.5, True, 255), (255.5, True, 1023),
    ],
)  # fmt: skip
def test_level_of(highest, is_float, level):
    assert level_of(highest, is_float) == level


@pytest.mark.parametrize(
    "values, level, expected",
    [
        (np.array([[0, 512, 1023]], np.uint16), 1023, [0, 128, 255]),
        (np.array([[0, 16, 2048, 4095]], np.uint16), 4095, [0, 1, 128, 255]),
        (np.array([[0, 2048, 5000]], np.uint16), 4095, [0, 128, 255]),  # above white is white
        (np.array([[0.0, 0.5, 1.0]], np.float32), 1, [0, 127, 255]),
        (np.array([[-1.0, 0.5, np.nan]], np.float32), 1, [0, 127, 0]),
        (np.array([[-7, 0, 25600, 65535]], np.int32), 65535, [0, 0, 100, 255]),
        (np.array([[0, 100, 255]], np.uint8), 4095, [0, 100, 255]),  # 8 bits stay
    ],
)
def test_scaling(tmp_path, values, level, expected):
    assert read_image(save(tmp_path, values), white_level=level)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    "values, said",
    [
        (
            np.array([[0, 4095]], np.uint16),
            "up to 4095 and is scaled as if 65535 were white",
        ),
        (np.array([[0, 9]], np.int32), ""),
        (np.array([[-9, 255]], np.int32), "values from -9 to 255; values below 0 become black"),
        (np.array([[0, 65535]], np.uint16), ""),
        (np.array([[0, 1]], np.float32), ""),
    ],
)
def test_a_guess_is_logged_once(tmp_path, log, values, said):
    path = save(tmp_path, values)
    for _ in range(3):
        read_image(path)
    assert len(log) == bool(said) and all(said in line and "WARNING" in line for line in log)


def test_level_of_a_sample_of_files(tmp_path):
    """The highest value of all files decides; files of 8 bits and unreadable ones are ignored."""
    eight = save(tmp_path, np.full((4, 4, 3), 200, np.uint8), "eight.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    dark = save(tmp_path, np.full((4, 4), 300, np.uint16), "dark.png")
    bright = save(tmp_path, np.full((4, 4), 4000, np.uint16), "bright.png")
    assert level_of_files([eight, tmp_path / "broken.png", tmp_path / "none.png"]) is None
    assert level_of_files([eight, dark]) == 1023 and level_of_files([dark, eight, bright]) == 4095
    assert level_of_files([]) is None


@pytest.mark.parametrize("value, level", [("auto", None), ("4095", 4095.0), (1, 1.0)])
def test_key(value, level):
    assert read_auto("INPUT.WHITE_LEVEL", value) == level


@pytest.mark.parametrize("value", ["bright", 0, -1, None, "nan", float("inf"), []])
def test_other_values_of_the_key_are_refused(value):
    with pytest.raises(ConfigError, match="INPUT.WHITE_LEVEL must be 'auto' or a number above 0"):
        read_auto("INPUT.WHITE_LEVEL", value)


def write_dataset(folder, name, highest):
    """Write two images of 16 bits: a dark one, and one with values up to `highest`."""
    folder.mkdir()
    for i, value in enumerate((highest // 8, highest)):
        save(folder, np.full((8, 8), value, np.uint16), f"{i}.png")
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(2)]
    boxes = [{"image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (folder / "a.json").write_text(json.dumps(content))
    register_coco_instances(name, folder / "a.json", folder)


def test_one_level_for_a_data_set(tmp_path):
    """Dark images stay dark, because they are not scaled by their own maximum."""
    write_dataset(tmp_path / "a", "deep", 4095)
    dataset = COCODataset(BaseConfig(), "deep")
    assert dataset.white_level == 4095
    assert [int(dataset[i]["image"].max()) for i in range(2)] == [31, 255]
    cfg = BaseConfig()
    cfg.merge_from_list(["INPUT.WHITE_LEVEL", 8191])
    assert int(COCODataset(cfg, "deep")[1]["image"].max()) == 127


def test_one_level_for_joined_data_sets(tmp_path):
    write_dataset(tmp_path / "a", "deep_a", 4095)
    write_dataset(tmp_path / "b", "deep_b", 1023)
    joined = build_dataset(BaseConfig(), ["deep_b", "deep_a"])
    assert joined.white_level == 4095
    assert [int(joined[i]["image"].max()) for i in (1, 3)] == [63, 255]


# -- training and later use ------------------------------------------------------------------------


def test_the_training_data_settle_the_key(tmp_path):
    """If the config has a number, the data set uses it."""
    write_dataset(tmp_path / "a", "deep", 4095)
    cfg = BaseConfig()
    joined = build_dataset(cfg, ["deep"])
    settle_white_level(cfg, joined)
    assert cfg.INPUT.WHITE_LEVEL == "4095" and expected_white_level(cfg) == {KEY: "4095"}
    cfg.merge_from_list([KEY, 8191])
    settle_white_level(cfg, joined)
    assert joined.white_level == joined.datasets[0].white_level == 8191
    assert int(joined[1]["image"].max()) == 127


def test_images_of_8_bits_leave_the_key_alone(tmp_path):
    cfg = BaseConfig()
    settle_white_level(cfg, object())
    assert cfg.INPUT.WHITE_LEVEL == "auto" and expected_white_level(cfg) == {}


def test_weights_settle_the_key_or_are_refused(log):
    cfg = BaseConfig()
    check_expectations(cfg, {KEY: "4095"}, "x.pth")
    assert cfg.INPUT.WHITE_LEVEL == "4095" and "4095, as x.pth expects" in log[0]
    check_expectations(cfg, {KEY: "4095.0"}, "y.pth")
    with pytest.raises(ConfigError, match="INPUT.WHITE_LEVEL is '4095'; they expect '1023'"):
        check_expectations(cfg, {KEY: "1023"}, "z.pth")


@pytest.mark.slow
def test_a_checkpoint_keeps_the_level(experiment, run_command, tmp_path):
    """Train on 12 bits, test on darker images, and export: the level stays the same."""
    for name, highest in (("deep", 4000), ("dark", 900)):
        write_dataset(tmp_path / name, name, highest)
    register = "".join(
        f"register_coco_instances({n!r}, {str(tmp_path / n / 'a.json')!r}, {str(tmp_path / n)!r})\n"
        for n in ("deep", "dark")
    )
    change = {"DATASETS.TRAIN": ("deep",), "DATASETS.TEST": ("dark",), "MODEL.ATSS.NUM_CLASSES": 1}
    config = experiment / "config.py"
    config.write_text(f"{config.read_text()}\n{register}config.override({change!r})\n")
    said = run_command(["pods_train"], experiment).stderr
    assert "INPUT.WHITE_LEVEL is 4095, the level of the training images" in said
    weights = ["MODEL.WEIGHTS", "output/model_final.pth"]
    assert "INPUT.WHITE_LEVEL is 4095" in run_command(["pods_test", *weights], experiment).stderr
    run_command(["pods_export", "--output", "x.onnx", *weights], experiment)
    graph = ["pods_test", "MODEL.WEIGHTS", "x.onnx"]
    assert "INPUT.WHITE_LEVEL is 4095" in run_command(graph, experiment).stderr
