"""Sessions: runtimes agree, files that do not open give telling errors, timing."""

from __future__ import annotations

import json

import pytest
import torch

from cvpods.utils.errors import CheckpointError, ConfigError, DataError
from cvpods_ext.deploy import sessions
from cvpods_ext.deploy.info import GraphInfo
from cvpods_ext.deploy.performance import Timing, measure, random_feeds
from cvpods_ext.deploy.sessions import open_session
from cvpods_ext.deploy.verify import difference

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


def noise(batch=2, size=(96, 128)):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


# -- runtimes --------------------------------------------------------------------------------------


def test_what_a_session_says(exported):
    session = open_session(exported("free_anchor"))
    assert session.shapes == {"input": (0, 3, 0, 0)}
    assert session.batch is None and session.size is None
    assert f"onnxruntime {ort.__version__}, CPUExecutionProvider, " in session.device


@pytest.mark.parametrize("flags", [(), ("--with-postprocess",), ("--half",)])
def test_openvino_agrees_with_onnxruntime(exported, flags):
    pytest.importorskip("openvino")
    path = exported("free_anchor", *flags)
    one, other = open_session(path, "openvino"), open_session(path, "cpu")
    assert one.device.startswith("OpenVINO") and one.shapes == other.shapes
    feeds = {"input": noise(), "image_sizes": torch.tensor([[96, 128], [90, 100]])}
    feeds = {name: feeds[name] for name in one.shapes}
    found, wanted = one(feeds), other(feeds)
    assert list(found) == list(wanted)
    bound = 5e-3 if "--half" in flags else 1e-4
    names = ["scores"] if "--with-postprocess" in flags else list(wanted)
    assert max(difference(found[name], wanted[name]) for name in names) < bound


def test_openvino_lacks_deform_conv(exported):
    """An error names the runtime, the operator and the way out."""
    pytest.importorskip("openvino")
    path = exported("feature_align", "--size", "96x96", "--batch", "1")
    with pytest.raises(ConfigError, match="OpenVINO .* lacks the operator DeformConv") as error:
        open_session(path, "openvino")
    assert "--deform-conv grid-sample" in str(error.value)
    assert open_session(path).size == (96, 96)  # onnxruntime has it


def test_bound_runs_compute_the_same(exported):
    path = exported("free_anchor")
    pt2 = exported("free_anchor", "--format", "pt2")
    for session in (open_session(path), open_session(pt2)):
        once = session.bind({"input": noise()})
        once()
        once()


def test_sizes_that_a_pt2_does_not_take(exported):
    """A .pt2 of open size refuses levels of one cell (64 pixels on P6), which ONNX accepts."""
    small = {"input": noise(1, (64, 160))}
    with pytest.raises(DataError, match="does not take 64 x 160 pixels.*at least two cells"):
        open_session(exported("free_anchor", "--format", "pt2"))(small)
    assert open_session(exported("free_anchor"))(small)["cls_logits_p6"].shape[2:] == (1, 3)


# -- what cannot be opened -------------------------------------------------------------------------


def saved(path, entries):
    node = onnx.helper.make_node("Identity", ["input"], ["y"])
    value = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 4, 4])
        for name in ("input", "y")
    }
    graph = onnx.helper.make_graph([node], "g", [value["input"]], [value["y"]])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    for key, text in entries.items():
        model.metadata_props.add(key=key, value=text)
    onnx.save(model, path)
    return path


def test_files_that_are_no_graph(tmp_path, exported):
    with pytest.raises(CheckpointError, match=r"x.onnx does not exist. pods_export --output"):
        open_session(tmp_path / "x.onnx")
    with pytest.raises(CheckpointError, match=r"suffix .onnx or .pt2; got .*x.pth"):
        open_session(tmp_path / "x.pth")
    whole = exported("free_anchor").read_bytes()
    pt2 = exported("free_anchor", "--format", "pt2").read_bytes()
    for name, content in (
        ("empty.onnx", b""),
        ("text.onnx", b"hello"),
        ("cut.onnx", whole[: len(whole) // 2]),
        ("empty.pt2", b""),
        ("cut.pt2", pt2[: len(pt2) // 2]),
        ("text.pt2", b"hello"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            open_session(tmp_path / name)


DAMAGED = json.dumps({**GraphInfo("network", "A", [], [], 1, 1, [], []).__dict__, "expects": None})


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"kind": "network"}', DAMAGED])
def test_files_of_other_programs(tmp_path, text):
    path = saved(tmp_path / "x.onnx", {} if text is None else {"cvpods": text})
    with pytest.raises(CheckpointError, match="was not written by pods_export"):
        open_session(path)


def test_a_file_that_says_what_it_is(tmp_path):
    info = GraphInfo("network", "ATSS", ["input"], ["y"], 4, 3, ["p3"], [1])
    session = open_session(saved(tmp_path / "x.onnx", {"cvpods": info.to_json()}))
    feeds = {"input": noise(1, (4, 4))}
    assert torch.equal(session(feeds)["y"], feeds["input"])


def test_providers(exported, monkeypatch):
    path = exported("free_anchor")
    with pytest.raises(ConfigError, match="The provider must be one of auto, cpu, .*; got 'gpu'"):
        open_session(path, "gpu")
    with pytest.raises(ConfigError, match="PyTorch runs .*; the provider 'cpu' takes .onnx only"):
        open_session(exported("free_anchor", "--format", "pt2"), "cpu")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(ConfigError, match="this onnxruntime does not have.*onnxruntime-gpu"):
            open_session(path, provider)
    assert "CPUExecutionProvider" in open_session(path, "auto", "cuda").device


def test_a_provider_that_does_not_start(exported, monkeypatch):
    """onnxruntime logs it and continues on the CPU; here it is an error."""
    path = exported("free_anchor")
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: both)
    with pytest.raises(ConfigError, match="could not start CUDAExecutionProvider and took CPU"):
        open_session(path, "cuda")


# -- timing ----------------------------------------------------------------------------------------


def test_timing_by_hand():
    """Batches of 4 in 1, 2, ... 100 s: mean 50.5 s; p99 between the 99th and the 100th run."""
    timing = Timing([float(s) for s in range(1, 101)], batch=4)
    assert timing.median == 50.5
    assert timing.images_per_second == pytest.approx(4 / 50.5)
    assert timing.p99 == pytest.approx(99.01)
    assert "100 runs of 4 images: median 50500.0 ms, p99 99010.0 ms, 0.08" in timing.describe()


def test_measure(exported):
    session = open_session(exported("free_anchor"))
    calls = []
    bind = session.bind
    session.bind = lambda feeds: (lambda once: lambda: calls.append(once()))(bind(feeds))
    timing = measure(session, 2, (96, 96), warmup=2, runs=5)
    assert len(calls) == 7 and len(timing.seconds) == 5 and min(timing.seconds) > 0


def test_feeds_of_another_shape_are_refused(exported):
    fixed = exported(
        "free_anchor", "--half", "--simplify", "--overwrite-input-shape", "input:4,3,96,128"
    )
    session = open_session(fixed)
    with pytest.raises(ConfigError, match="--batch must be 4, as in this graph, .*; got 2"):
        random_feeds(session, 2, (96, 128))
    with pytest.raises(ConfigError, match=r"--size must be \(96, 128\), .*; got \(96, 96\)"):
        random_feeds(session, 4, (96, 96))
    assert random_feeds(session, 4, (96, 128))["input"].shape == (4, 3, 96, 128)


def test_short_messages():
    assert sessions._shorten("a\n\n  b\nc") == "a b c" and len(sessions._shorten("x" * 999)) == 300
