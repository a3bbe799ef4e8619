"""pods_convert, as a user types it."""

import hashlib
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from cvpods.checkpoint import Checkpointer, load_file, write_weights
from cvpods.tools import Predictor
from cvpods.tools.experiment import open_experiment
from cvpods_ext.convert.to_mmdet import to_mmdet
from cvpods_ext.tools.convert import main
from tests.load_script import ROOT

EXPERIMENT = ROOT / "playground" / "atss.res18.shapes"
COMMAND = Path(sys.executable).with_name("pods_convert")
CLASSES = ["disc", "square", "triangle", "star", "ring", "cross"]


def run(*words):
    """Run the command in this process; return (status, output, errors)."""
    output, errors, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            main([*map(str, words)])
        except SystemExit as stop:
            status = stop.code
    return status, output.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def model():
    config, build_model = open_experiment(EXPERIMENT, device="cpu")
    torch.manual_seed(0)
    return build_model(config)


@pytest.fixture
def checkpoint(tmp_path, model):
    """Write a run's folder: weights, averaged weights, an optimiser's state, the config."""
    folder = tmp_path / "output"
    averaged = {name: value + 1 for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    checkpointer = Checkpointer(model, folder, optimizer=optimizer)
    checkpointer.save("model_final", iteration=499, ema=averaged, thing_classes=CLASSES)
    keys = {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717], "SEED": 0}
    (folder / "config.json").write_text(json.dumps(keys))
    return folder / "model_final.pth"


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_strip(checkpoint, model):
    """--strip writes the averaged weights alone under a name with their hash."""
    status, output, _ = run(checkpoint, "--strip", "--quiet")
    assert status == 0
    digest, name = output.strip().splitlines()[-1].split("  ")
    path = checkpoint.parent / name
    assert sha256(path) == digest and name == f"model_final.weights-{digest[:8]}.pth"
    assert path.stat().st_size < checkpoint.stat().st_size / 2.5
    content = load_file(path)
    assert set(torch.load(path, weights_only=True)) == {"model", "provenance"}
    for key, value in model.state_dict().items():
        assert torch.equal(content["model"][key], value + 1)
    provenance = content["provenance"]
    assert provenance["source"] == "model_final.pth" and provenance["class_names"] == CLASSES
    assert provenance["sha256"] == sha256(checkpoint)
    assert provenance["expects"] == {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    }
    assert "averaged" in output


def test_the_command(checkpoint):
    """The last line of the output names the file as it was typed."""
    words = [COMMAND, str(checkpoint), "--strip"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (checkpoint.parent / done.stdout.split()[-1]).is_file()
    done = subprocess.run([*words, "x.onnx"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.startswith("error: ")


def test_strip_twice_is_the_same_file(checkpoint):
    first, second = (run(checkpoint, "--strip", "--quiet")[1].splitlines()[-1] for _ in range(2))
    assert first == second


def test_safetensors_and_a_predictor(checkpoint, tmp_path):
    """The header holds the provenance; a predictor takes the file and its class names."""
    path = tmp_path / "x.safetensors"
    status, output, _ = run(checkpoint, path, "--dir", EXPERIMENT)
    assert status == 0 and "missing: 0" in output and "unused: 0" in output
    with safe_open(path, framework="pt") as file:
        written = json.loads(file.metadata()["provenance"])
    assert written["expects"]["MODEL.PIXEL_STD"] == [57.375, 57.12, 58.395]
    predictor = Predictor.from_experiment(EXPERIMENT, path, device="cpu")
    assert predictor.class_names == CLASSES


def test_to_mmdet_and_back(checkpoint, tmp_path, model):
    there, back = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    assert run(checkpoint, there, "--to", "mmdet", "--method", "atss", "--quiet")[0] == 0
    content = torch.load(there, weights_only=True)
    assert set(content) == {"state_dict", "provenance"}
    assert "bbox_head.atss_cls.weight" in content["state_dict"]
    status, output, _ = run(there, back)
    assert status == 0 and "layout: mmdet atss" in output
    weights = load_file(back)["model"]
    for key, value in model.state_dict().items():
        assert torch.equal(weights[key], value + 1), key
    assert load_file(back)["provenance"]["class_names"] == CLASSES


def test_the_report(checkpoint, tmp_path):
    """The report lists every tensor with its shape; --quiet omits the tensors in use."""
    output = run(checkpoint, tmp_path / "x.pth", "--to", "mmdet", "--method", "atss")[1]
    line = "  head.cls_score.weight -> bbox_head.atss_cls.weight (6, 64, 3, 3)"
    assert line in output.splitlines()
    quiet = run(checkpoint, tmp_path / "x.pth", "--to", "mmdet", "--method", "atss", "--quiet")[1]
    assert line not in quiet and "used: 12" in quiet


def test_a_partial_match_is_refused(tmp_path, model):
    """A partial match is listed with shapes; only --allow-partial writes it."""
    weights = to_mmdet(model.state_dict(), "atss").weights
    del weights["neck.fpn_convs.1.conv.weight"]
    torch.save({"state_dict": {**weights, "bbox_head.other": torch.zeros(7)}}, tmp_path / "in.pth")
    target = tmp_path / "out.pth"
    status, output, errors = run(tmp_path / "in.pth", target)
    assert status == 1 and not target.exists()
    assert "bbox_head.other (7,)" in output
    assert "backbone.fpn_output4.weight (64, 64, 3, 3)" in output
    assert "1 tensors unused, 1 missing" in errors and "--allow-partial" in errors
    assert run(tmp_path / "in.pth", target, "--allow-partial")[0] == 0
    assert "bbox_head.other" not in load_file(target)["model"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere.pth", "x.pth"], "does not exist"),
        (["IN", "x.onnx"], ".pth or .safetensors"),
        (["IN"], "Name the file to write"),
        (["IN", "IN"], "is the input"),
        (["IN", "x.pth", "--to", "mmdet"], "--to mmdet needs --method"),
        (["IN", "x.pth", "--to", "mmdet", "--method", "retinanet"], "not weights of retinanet"),
        (["IN", "x.pth", "--from", "mmdet"], "not weights of mmdetection"),
        (["IN", "x.pth", "--dir", "nowhere"], "nowhere"),
        (["IN", "IN/x.pth"], "cannot be written"),
    ],
)
def test_errors(checkpoint, tmp_path, words, message):
    """Errors give one message and status 1; nothing is written."""
    before = sorted(tmp_path.rglob("*"))
    words = [word.replace("IN", str(checkpoint)) for word in words]
    words = [
        str(tmp_path / word) if word.startswith(("x.", "nowhere.")) else word for word in words
    ]
    status, _, errors = run(*words)
    assert status == 1 and "error: " in errors and message in errors
    assert sorted(tmp_path.rglob("*")) == before


def test_a_files_own_words_win(tmp_path, model):
    """Refuse an experiment in BGR for a file of mmdetection that states RGB."""
    weights = to_mmdet(model.state_dict(), "atss").weights
    config = (
        "model = dict(data_preprocessor=dict(mean=[123.675, 116.28, 103.53], "
        "std=[58.395, 57.12, 57.375], bgr_to_rgb=True))"
    )
    torch.save({"state_dict": weights, "meta": {"cfg": config}}, tmp_path / "in.pth")
    (tmp_path / "config.json").write_text(json.dumps({"INPUT.FORMAT": "BGR"}))
    assert run(tmp_path / "in.pth", tmp_path / "x.pth", "--quiet")[0] == 0
    assert load_file(tmp_path / "x.pth")["expects"]["INPUT.FORMAT"] == "RGB"
    status, _, errors = run(tmp_path / "in.pth", tmp_path / "y.pth", "--dir", EXPERIMENT)
    assert status == 1 and "INPUT.FORMAT is 'BGR'; they expect 'RGB'" in errors
    assert not (tmp_path / "y.pth").exists()


def test_what_mmdetection_computes_otherwise(checkpoint, tmp_path):
    """A note names the keys; on the way back, the weights expect their training's values."""
    words = ["--to", "mmdet", "--method", "atss", "--quiet", "--dir", EXPERIMENT]
    output = run(checkpoint, tmp_path / "there.pth", *words)[1]
    assert "computes with other values" in output and "MODEL.ATSS.SCORE_TYPE class_first" in output
    run(tmp_path / "there.pth", tmp_path / "back.pth", "--quiet")
    for name in ("there.pth", "back.pth"):
        expects = load_file(tmp_path / name)["expects"]
        assert "MODEL.ATSS.SCORE_TYPE" not in expects and expects["INPUT.FORMAT"] == "BGR"
        Predictor.from_experiment(EXPERIMENT, tmp_path / name, device="cpu")


@pytest.mark.parametrize("provenance", [{"expects": [1], "class_names": 5}, {"expects": 3}, {}])
def test_odd_provenance(tmp_path, model, provenance):
    write_weights(tmp_path / "in.safetensors", model.state_dict(), provenance)
    assert run(tmp_path / "in.safetensors", tmp_path / "x.pth", "--quiet")[0] == 0
    assert load_file(tmp_path / "x.pth")["provenance"]["class_names"] == []
