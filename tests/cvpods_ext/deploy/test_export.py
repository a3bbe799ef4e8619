"""pods_export: shapes, opsets, simplification, formats, the description in a file, errors."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections import Counter

import pytest
import torch

from cvpods.data.datasets import paths
from cvpods.utils.errors import CheckpointError, ConfigError
from cvpods_ext.deploy import export as export_module
from cvpods_ext.deploy.experiment import load_dense_detector
from cvpods_ext.deploy.export import export_program, simplify, to_onnx
from cvpods_ext.deploy.graphs import DetectorGraph, NetworkGraph
from cvpods_ext.deploy.info import ENTRY, GraphInfo
from cvpods_ext.deploy.options import InputShape, parse_shape
from cvpods_ext.deploy.sessions import open_session
from cvpods_ext.deploy.verify import detections_difference, difference, verify
from cvpods_ext.tools.export import main as export
from tests.cvpods_ext.deploy.small import (
    folder_of,
    small_config,
    small_detector,
    small_opts,
)

onnx = pytest.importorskip("onnx")


def shapes_of(values):
    return {
        v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in values
    }


def run_tool(capsys, *words):
    """Run pods_export, which must fail; return its error output."""
    with pytest.raises(SystemExit) as stop:
        export([str(word) for word in words])
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "free_anchor.pth"
    torch.save({"model": small_detector("free_anchor").state_dict()}, path)
    return path


def flags_of(weights, method="free_anchor"):
    words = ["--dir", folder_of(method), "--weights", weights, *small_opts(method)]
    return [str(word) for word in words]


# -- what is written -------------------------------------------------------------------------------


def test_names_and_open_axes(exported):
    """The outputs are the class maps of all levels, then the box maps of all levels."""
    model = onnx.load(exported("free_anchor"))
    assert shapes_of(model.graph.input) == {"input": ["batch", 3, "height", "width"]}
    outputs = shapes_of(model.graph.output)
    assert list(outputs) == [
        f"{name}_{level}"
        for name in ("cls_logits", "box_deltas")
        for level in ("p3", "p4", "p5", "p6")
    ]
    assert outputs["cls_logits_p4"] == ["batch", 54, "height_p4", "width_p4"]
    assert outputs["box_deltas_p6"] == ["batch", 36, "height_p6", "width_p6"]
    operators = Counter(node.op_type for node in model.graph.node)
    assert not {"If", "Loop", "BatchNormalization"} & set(operators)
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == 20


def test_detector_holds_the_standard_nms(exported):
    model = onnx.load(exported("free_anchor", "--with-postprocess"))
    assert shapes_of(model.graph.input)["image_sizes"] == ["batch", 2]
    assert shapes_of(model.graph.output) == {
        "boxes": ["batch", 100, 4],
        "scores": ["batch", 100],
        "labels": ["batch", 100],
    }
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["NonMaxSuppression"] == 1 and not {"If", "Loop"} & set(operators)
    assert {node.domain for node in model.graph.node} == {""}  # nothing but ONNX' own operators


def test_what_the_file_says(exported):
    (entry,) = onnx.load(exported("free_anchor", "--with-postprocess")).metadata_props
    assert entry.key == ENTRY
    info = GraphInfo.from_json(entry.value, "x.onnx")
    assert (info.kind, info.detector, info.divisor) == ("detector", "FreeAnchor", 16)
    assert info.weights == "free_anchor.pth" and info.outputs == ["boxes", "scores", "labels"]
    assert info.expects["INPUT.FORMAT"] == "BGR"
    assert info.expects["MODEL.FREE_ANCHOR.NMS_THRESH_TEST"] == 0.5
    assert info.expects["TEST.DETECTIONS_PER_IMAGE"] == 100
    assert "MODEL.FREE_ANCHOR.NMS_THRESH_TEST" not in _info(exported("free_anchor")).expects


def _info(path):
    return open_session(path).info


def test_class_names_come_with_the_weights(tmp_path):
    names = ["a", "b", "c", "d", "e", "f"]
    path = tmp_path / "w.pth"
    state = small_detector("atss").state_dict()
    torch.save({"model": state, "thing_classes": names}, path)
    target = tmp_path / "x.pt2"
    export([*flags_of(path, "atss"), "--output", str(target), "--format", "pt2"])
    assert _info(target).class_names == names


def test_fixed_shape_and_half_and_simplified(exported):
    """A graph of any size is fixed to 4 images of 96 x 128, in FP16."""
    path = exported(
        "free_anchor", "--half", "--simplify", "--overwrite-input-shape", "input:4,3,96,128"
    )
    model = onnx.load(path)
    assert shapes_of(model.graph.input) == {"input": [4, 3, 96, 128]}
    outputs = shapes_of(model.graph.output)
    assert outputs["cls_logits_p3"] == [4, 54, 12, 16] and outputs["box_deltas_p6"] == [4, 36, 2, 2]
    operators = Counter(node.op_type for node in model.graph.node)
    assert not {"Shape", "Slice", "Gather", "Concat", "Expand"} & set(operators)
    session = open_session(path)
    assert (session.batch, session.size, session.info.half) == (4, (96, 128), True)


def test_simplify_fixes_the_sizes_of_images_too(exported):
    model = onnx.load(exported("free_anchor", "--with-postprocess"))
    slim = simplify(model, (2, 3, 96, 128))
    assert shapes_of(slim.graph.input) == {"input": [2, 3, 96, 128], "image_sizes": [2, 2]}
    assert {entry.key for entry in slim.metadata_props} == {ENTRY}
    onnx.checker.check_model(slim)


def test_export_of_a_fixed_shape():
    graph = NetworkGraph(small_detector("retinanet")).eval()
    program = export_program(graph, InputShape(3, (96, 128)))
    (node,) = [n for n in program.graph.nodes if n.name == "input_1" or n.name == "input"]
    assert tuple(node.meta["val"].shape) == (3, 3, 96, 128)


@pytest.mark.parametrize("opset", [18, 23])
def test_opsets(opset):
    """The export raises no warning."""
    graph = NetworkGraph(small_detector("retinanet")).eval()
    info = GraphInfo(
        "network", "RetinaNet", ["input"], list(graph.output_names), 16, 6, ["p3"], [9]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = to_onnx(export_program(graph, InputShape(1, (96, 96))), graph, info, opset)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset
    onnx.checker.check_model(model)


def test_nothing_is_printed_but_the_result(weights, tmp_path, capfd):
    export([*flags_of(weights), "--output", str(tmp_path / "x.onnx"), "--size", "96x96"])
    printed = capfd.readouterr()
    assert "Wrote" in printed.out + printed.err
    for word in ("Warning", "warning", "torch.onnx", "Skipping"):
        assert word not in printed.out + printed.err


# -- .pt2 ------------------------------------------------------------------------------------------


def test_pt2_of_the_network_needs_torch_alone(exported, tmp_path):
    """A new process that imports neither cvpods nor cvpods_ext runs the file."""
    path = exported("free_anchor", "--format", "pt2")
    code = (
        "import sys, torch\n"
        f"program = torch.export.load({str(path)!r})\n"
        "maps = program.module()(input=torch.zeros(3, 3, 192, 96))\n"
        "assert not [name for name in sys.modules if name.startswith('cvpods')]\n"
        "print([list(m.shape) for m in maps])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[:2] == [[3, 54, 24, 12], [3, 54, 12, 6]]


def test_pt2_computes_what_onnx_computes(exported):
    feeds = {"input": torch.randn(2, 3, 128, 96)}
    one = open_session(exported("free_anchor", "--format", "pt2"))(feeds)
    other = open_session(exported("free_anchor"))(feeds)
    assert list(one) == list(other)
    assert max(difference(one[name], value) for name, value in other.items()) < 1e-4


# -- --verify --------------------------------------------------------------------------------------


def test_verify_tells_another_model(exported):
    path = exported("free_anchor")
    assert verify(path, small_detector("free_anchor")) < 1e-4
    other = small_detector("free_anchor")
    with torch.no_grad():
        other.head.cls_score.bias += 0.01
    with pytest.raises(CheckpointError, match="differs from PyTorch by"):
        verify(path, other)


def test_verify_sees_a_nan_in_the_last_output(tmp_path):
    model = small_detector("free_anchor")
    with torch.no_grad():
        model.head.bbox_pred.bias[-1] = float("nan")
    torch.save({"model": model.state_dict()}, tmp_path / "nan.pth")
    target = tmp_path / "nan.onnx"
    export([*flags_of(tmp_path / "nan.pth"), "--output", str(target), "--size", "96x96"])
    with pytest.raises(CheckpointError, match="differs from PyTorch by inf"):
        verify(target, small_detector("free_anchor"))


def test_difference():
    """Differences are relative for values above 1: |6 - 4| / 4 and |0.5 - 0.25|."""
    assert difference(torch.tensor([6.0, 0.5]), torch.tensor([4.0, 0.25])) == 0.5
    assert difference(torch.zeros(2), torch.zeros(3)) == float("inf")
    for bad in (float("nan"), float("inf")):
        values = torch.tensor([0.0, bad])
        assert difference(values, torch.zeros(2)) == difference(values, values) == float("inf")
    assert difference(torch.zeros(0), torch.zeros(0)) == 0


def test_difference_of_detections():
    """Detections may change places; another box, score, label or number is a difference."""
    wanted = {
        "boxes": torch.tensor([[[0.0, 0.0, 8.0, 8.0], [2.0, 2.0, 9.0, 9.0], [0.0] * 4]]),
        "scores": torch.tensor([[0.5, 0.5, 0.0]]),
        "labels": torch.tensor([[1, 0, -1]]),
    }
    order = torch.tensor([1, 0, 2])
    assert detections_difference({k: v[:, order] for k, v in wanted.items()}, wanted) == 0
    changes = {"boxes": ((0, 0, 0), 0.5, 0.5), "scores": ((0, 1), 0.25, 0.25)}
    for name, (place, value, expected) in changes.items():
        other = {k: v.clone() for k, v in wanted.items()}
        other[name][place] = value
        assert detections_difference(other, wanted) == pytest.approx(expected)
    other = {**wanted, "labels": torch.tensor([[1, 2, -1]])}
    assert detections_difference(other, wanted) > 1
    other = {**wanted, "labels": torch.tensor([[1, -1, -1]])}
    assert detections_difference(other, wanted) == float("inf")
    none = {**wanted, "labels": torch.full((1, 3), -1)}
    assert detections_difference(none, none) == 0


def test_verify_of_a_detector(exported):
    path = exported("free_anchor", "--with-postprocess")
    assert verify(path, small_detector("free_anchor")) < 1e-4
    other = small_detector("free_anchor")
    with torch.no_grad():
        other.head.bbox_pred.bias += 0.05
    with pytest.raises(CheckpointError, match="differs from PyTorch by"):
        verify(path, other)


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--output", "x.pt2"], "--output must end in .onnx"),
        (
            ["--output", "x.onnx", "--batch", "many"],
            "must be a number or 'dynamic'; got 'many'",
        ),
        (["--output", "x.onnx", "--batch", "0"], "--batch must be at least 1, or 'dynamic'; got 0"),
        (
            ["--output", "x.onnx", "--size", "800"],
            "--size must be HEIGHTxWIDTH, for example 800x1344; got '800'",
        ),
        (
            ["--output", "x.onnx", "--size", "800x1333"],
            "multiples of 16, for example 800x1328",
        ),
        (["--output", "x.onnx", "--size", "0x32"], "got '0x32'"),
        (["--output", "x.onnx", "--opset", "17"], "--opset must be between 18 and 23; got 17"),
        (["--output", "x.onnx", "--opset", "99"], "--opset must be between 18 and 23; got 99"),
        (
            ["--output", "x.onnx", "--overwrite-input-shape", "input:1,3,96,96"],
            "--overwrite-input-shape needs --simplify",
        ),
        (
            ["--output", "x.onnx", "--simplify", "--overwrite-input-shape", "1,3,96,96"],
            "must be input:N,3,H,W",
        ),
        (
            ["--output", "x.pt2", "--format", "pt2", "--simplify"],
            "--simplify works on ONNX",
        ),
        (
            ["--output", "x.onnx", "--with-postprocess", "MODEL.NMS_TYPE", "softnms-linear"],
            "got 'softnms-linear'. Export without --with-postprocess",
        ),
    ],
)
def test_flags_that_do_not_fit(weights, capsys, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    assert message in run_tool(capsys, *flags_of(weights), *flags)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_there(capsys, tmp_path):
    words = ["--dir", folder_of("atss"), "--output", tmp_path / "x.onnx"]
    assert "nowhere.pth" in run_tool(capsys, *words, "--weights", tmp_path / "nowhere.pth")
    assert "has no checkpoint" in run_tool(capsys, *words, "OUTPUT_DIR", tmp_path)


def test_weights_of_another_method(weights, capsys, tmp_path):
    words = flags_of(weights, "atss")
    assert "free_anchor.pth" in run_tool(capsys, *words, "--output", tmp_path / "x.onnx")


def test_a_file_that_cannot_be_written(weights, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    words = [*flags_of(weights), "--output", tmp_path / "file" / "x.pt2", "--format", "pt2"]
    assert "cannot be written" in run_tool(capsys, *words)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 4, 96, 96), "does not fit the input's"),
        ((1, 3, 96), "does not fit the input's"),
        ((0, 3, 96, 96), "does not fit the input's"),
        ((1, 3, 96, 100), "multiples of 16, for example 96x96; got 96x100"),
    ],
)
def test_shapes_that_do_not_fit(exported, shape, message):
    with pytest.raises(ConfigError, match=message):
        simplify(onnx.load(exported("free_anchor")), shape)


def test_parse_shape():
    assert parse_shape("input:32,3,800,1344") == (32, 3, 800, 1344)
    for text in ("input", "input:", "input:1,", "input:a,b", ":1,2", "image_sizes:3,2"):
        with pytest.raises(ConfigError, match="must be input:N,3,H,W"):
            parse_shape(text)


def test_deform_conv_needs_opset_19(tmp_path, capsys):
    weights = tmp_path / "w.pth"
    torch.save({"model": small_detector("feature_align").state_dict()}, weights)
    words = [*flags_of(weights, "feature_align"), "--output", str(tmp_path / "x.onnx")]
    error = run_tool(capsys, *words, "--opset", "18", "--size", "96x96")
    assert "--opset must be at least 19, the first with DeformConv; got 18" in error
    assert "--deform-conv grid-sample" in error


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(export_module.importlib, "import_module", missing)
    for package, extra in (("onnxslim", "deploy"), ("openvino", "openvino")):
        with pytest.raises(ConfigError, match=rf"{package}: pip install 'cvpods-ext\[{extra}\]'"):
            export_module.require(package)


def test_models_of_another_kind_are_refused(tmp_path):
    model = torch.nn.Linear(1, 1)
    torch.save({"model": model.state_dict()}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="DenseDetector; this experiment's is Linear"):
        load_dense_detector(small_config("atss")[0], lambda _: model, tmp_path / "x.pth")


def test_graphs_are_not_exported_again(exported, capsys, tmp_path):
    words = ["--dir", folder_of("free_anchor"), "--weights", exported("free_anchor")]
    error = run_tool(capsys, *words, "--output", tmp_path / "x.onnx")
    assert "is a graph already; name the weights" in error


def test_names_of_the_data_set_where_the_weights_have_none(weights, tmp_path, monkeypatch):
    """COCO's names are known without its files."""
    cfg, build_model = small_config("free_anchor", ["MODEL.FREE_ANCHOR.NUM_CLASSES", 80])
    cfg.DATASETS.TEST = ("coco_2017_val",)
    path = tmp_path / "x.pth"
    torch.save({"model": build_model(cfg).state_dict()}, path)
    _, names = load_dense_detector(cfg, build_model, path)
    assert len(names) == 80 and names[0] == "person"
    monkeypatch.setattr(paths, "data_roots", list)
    monkeypatch.chdir(tmp_path)
    assert load_dense_detector(*small_config("free_anchor"), weights)[1] == []


def test_cluster_nms_is_nms():
    assert DetectorGraph(small_detector("atss", ["MODEL.NMS_TYPE", "cluster"])).kind == "detector"


@pytest.mark.slow
def test_grid_sample_instead_of_deform_conv(exported):
    path = exported("feature_align", "--deform-conv", "grid-sample", "--size", "96x96")
    operators = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert operators["GridSample"] == 8 and not operators["DeformConv"]
    assert verify(path, small_detector("feature_align")) < 1e-4
