"""Against what mmdetection computed: tests/expect/mmdet, by scripts/compare_mmdet.py --record.

Its weights are drawn again from their names, shapes and a seed; then converted, and run here.
"""

import json

import pytest
import torch

from cvpods.checkpoint import load_file
from cvpods_ext.convert.conversion import convert
from cvpods_ext.convert.to_mmdet import to_mmdet
from tests.load_script import ROOT, load_script

script = load_script("scripts/compare_mmdet.py")
TO_METHODS = ["retinanet", "free_anchor", "fcos", "atss", "auto_assign"]


def record(method):
    return json.loads((ROOT / "tests" / "expect" / "mmdet" / f"{method}.json").read_text())


def weights_of(method):
    return script.random_weights(record(method)["shapes"])


@pytest.mark.parametrize("method", script.METHODS)
def test_same_outputs(method):
    """Maps of the head, losses and detections; every one of a hundred is the same."""
    recorded = record(method)
    assert all(one["count"] == 100 for one in recorded["detections"])
    assert all(loss > 0.01 for loss in recorded["losses"].values())
    ours = script.summary(script.run_ours(method, weights_of(method)))
    found = script.differences(ours, recorded)
    assert max(found["maps"], found["losses"], found["scores"]) <= 1e-4, found
    assert found["boxes"] <= 2e-3, found


def test_the_comparison_notices():
    """Notice a difference of 0.01 on one level, a missing detection and another class."""
    recorded = record("atss")
    for change in ("maps", "losses", "scores", "count", "classes"):
        other = json.loads(json.dumps(recorded))
        if change == "maps":
            other["maps"][3][7] += 0.01
        elif change == "losses":
            other["losses"]["loss_cls"] += 0.01
        elif change == "scores":
            other["detections"][1]["scores"][4] += 0.01
        elif change == "count":
            other["detections"][0]["count"] -= 1
        else:
            other["detections"][0]["classes"][0] += 1
        found = script.differences(other, recorded)
        assert max(found["maps"], found["losses"], found["scores"]) > 1e-3


@pytest.mark.parametrize("method", script.METHODS)
def test_there_and_back(method):
    """mmdetection -> here -> mmdetection: every tensor, bit for bit."""
    weights = weights_of(method)
    conversion = convert(weights)
    assert conversion.layout == "mmdet" and conversion.complete and conversion.checked
    back = to_mmdet(conversion.weights, method)
    assert back.complete and set(back.weights) == set(weights)
    for name, value in weights.items():
        assert torch.equal(back.weights[name], value), name


def test_a_file_is_converted_as_it_is_read(tmp_path):
    """Names, classes, and what its config says of the input."""
    config = """
_base_ = ["x.py"]
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(type='ResNet', style='pytorch'))
"""
    content = {
        "meta": {"cfg": config, "dataset_meta": {"CLASSES": ("cat", "dog")}, "epoch": 12},
        "state_dict": weights_of("retinanet"),
    }
    torch.save(content, tmp_path / "x.pth")
    loaded = load_file(tmp_path / "x.pth")
    assert "head.cls_subnet.6.bias" in loaded["model"] and loaded["thing_classes"] == ["cat", "dog"]
    expects = loaded["expects"]
    assert expects["INPUT.FORMAT"] == "RGB"
    assert expects["MODEL.PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert expects["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    assert expects["MODEL.FPN.RELU_BEFORE_P7"] is False
