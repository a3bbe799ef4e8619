"""Metadata of an mmdetection checkpoint."""

import pytest

from cvpods_ext.convert.mmdet_meta import class_names, expects


@pytest.mark.parametrize(
    "meta, names",
    [
        ({"dataset_meta": {"CLASSES": ("a", "b")}}, ["a", "b"]),
        ({"dataset_meta": {"classes": ["a"]}}, ["a"]),
        ({"CLASSES": ("a", "b"), "config": "x"}, ["a", "b"]),  # version 2
        ({"dataset_meta": {"CLASSES": 5}}, []),
        ({"CLASSES": (1, 2)}, []),
        ({"dataset_meta": None}, []),
        (None, []),
        ("text", []),
    ],
)
def test_class_names(meta, names):
    assert class_names(meta) == names


CAFFE = """
model = dict(
    data_preprocessor=dict(mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0],
                           bgr_to_rgb=False),
    backbone=dict(style='caffe'),
    bbox_head=dict(type='FCOSHead', norm_on_bbox=True, centerness_on_reg=True))
optim_wrapper = dict(type='OptimWrapper')
"""


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_input_and_variant(key):
    assert expects({key: CAFFE}) == {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.FCOS.NORM_REG_TARGETS": True,
        "MODEL.FCOS.CENTERNESS_ON_REG": True,
    }


def test_version_2():
    text = "img_norm_cfg = dict(mean=[1.0, 2, 3], std=[4, 5, 6], to_rgb=True)\nmodel = dict(x=1)"
    assert expects({"config": text}) == {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [1.0, 2, 3],
        "MODEL.PIXEL_STD": [4, 5, 6],
    }


@pytest.mark.parametrize("relu", [True, False, None])
def test_relu_before_p7(relu):
    argument = "" if relu is None else f", relu_before_extra_convs={relu}"
    text = f"model = dict(neck=dict(type='FPN', num_outs=5{argument}))"
    assert expects({"cfg": text}) == {"MODEL.FPN.RELU_BEFORE_P7": relu is True}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model = 5",
        "model = dict(",
        "model = __import__('os').system('touch ran')",
        "model = dict(data_preprocessor=dict(mean=open('x'), std=[1]), backbone=f())",
        "model = dict(backbone=dict(style=" + "(" * 5000 + ")" * 5000 + "))",
        "x = 1\nmodel.backbone = 3",
        "\x00",
    ],
)
def test_texts_that_say_nothing(text, tmp_path, monkeypatch):
    """Read as data: nothing of it is run, and nothing of it is an error."""
    monkeypatch.chdir(tmp_path)
    found = expects({"cfg": text})
    assert "MODEL.RESNETS.STRIDE_IN_1X1" not in found
    assert not list(tmp_path.iterdir())
