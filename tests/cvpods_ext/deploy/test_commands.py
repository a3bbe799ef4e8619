"""pods_export, pods_infer, pods_test, pods_demo and the FreeAnchor scripts, as users type them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from cvpods_ext.deploy.info import ENTRY
from cvpods_ext.tools.export import main as export
from cvpods_ext.tools.infer import main as infer
from tests.cvpods_ext.deploy.small import small_detector, small_opts
from tests.load_script import ROOT

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

RESULTS = "coco_instances_results.json"
SPEED = ["--mode", "performance"]
OPTS = [str(word) for word in small_opts("free_anchor")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make an experiment's folder with weights."""
    folder = tmp_path_factory.mktemp("free_anchor.small")
    for name in ("config.py", "net.py"):
        shutil.copy(ROOT / "playground/free_anchor.res18.shapes" / name, folder)
    text = (folder / "config.py").read_text()
    pairs = dict(zip(OPTS[::2], OPTS[1::2], strict=True))
    lines = "".join(f"    {key!r}: {int(value)},\n" for key, value in pairs.items())
    more = "    'DATALOADER.NUM_WORKERS': 0,\n"
    (folder / "config.py").write_text(f"{text}\nconfig.override({{\n{lines}{more}}})\n")
    torch.save({"model": small_detector("free_anchor").state_dict()}, folder / "x.pth")
    return folder


@pytest.fixture
def graphs(folder, run_command):
    """Return a graph of any shape and one of 4 x 96 x 128 in FP16, exported once by the command."""
    free, fixed = folder / "free.onnx", folder / "fixed.onnx"
    if not fixed.exists():
        words = ["pods_export", "--weights", "x.pth", "--output"]
        done = run_command([*words, free.name, "--verify"], folder)
        assert "outputs differ by" in done.stdout + done.stderr
        shape = ["--half", "--simplify", "--overwrite-input-shape", "input:4,3,96,128"]
        run_command([*words, fixed.name, *shape], folder)
    return free, fixed


def test_export_takes_the_weights_of_the_overrides(folder, tmp_path):
    """MODEL.WEIGHTS wins over the checkpoint in OUTPUT_DIR; weights given twice are refused."""
    state = small_detector("free_anchor").state_dict()
    torch.save({"model": state, "iteration": 9}, tmp_path / "model_final.pth")
    words = ["--dir", str(folder), "--batch", "1", "--size", "64x96"]
    ends = [*OPTS, "OUTPUT_DIR", str(tmp_path)]

    def exported(name, *more):
        target = tmp_path / f"{name}.onnx"
        export([*words, "--output", str(target), *more])
        (entry,) = [p.value for p in onnx.load(target).metadata_props if p.key == ENTRY]
        return json.loads(entry)["weights"]

    assert exported("named", *ends, "MODEL.WEIGHTS", str(folder / "x.pth")) == "x.pth"
    assert exported("newest", *ends) == "model_final.pth"
    assert exported("flag", "--weights", str(folder / "x.pth"), *ends) == "x.pth"
    with pytest.raises(SystemExit):
        exported("both", "--weights", str(folder / "x.pth"), *ends, "MODEL.WEIGHTS", "y.pth")


def assert_same_results(found, wanted):
    """Check that the detections of each image have the same scores, in any order."""
    assert len(found) == len(wanted) > 8 * 50
    for image in {entry["image_id"] for entry in wanted}:
        both = [
            sorted((e["score"], e["category_id"], *e["bbox"]) for e in r if e["image_id"] == image)
            for r in (found, wanted)
        ]
        scores = [torch.tensor([entry[0] for entry in side]) for side in both]
        torch.testing.assert_close(*scores, atol=1e-4, rtol=0)


def figures(done, *names):
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if all(name in line for name in names)]


def test_accuracy_is_that_of_the_weights(folder, graphs, run_command):
    """pods_test with weights, pods_test with a graph and pods_infer give the same results.

    There are 8 images in batches of 3, so that the last batch is partial.
    """
    lines, detections = [], []
    for weights in ("x.pth", "free.onnx"):
        words = ["pods_test", "MODEL.WEIGHTS", weights, "TEST.IMS_PER_DEVICE", "3"]
        done = run_command([*words, "OUTPUT_DIR", "out"], folder)
        lines.append(figures(done, "copypaste")[-1].split("copypaste:")[1])
        (own,) = (folder / "out/inference").glob(f"of_{Path(weights).stem}_*/{RESULTS}")
        detections.append(json.loads(own.read_text()))
    assert lines[0] == lines[1]
    assert_same_results(*detections)
    words = ["pods_infer", "--model", "free.onnx", "--json", "out/ap.json", "OUTPUT_DIR", "out"]
    run_command([*words, "--batch", "3"], folder)
    assert_same_results(
        json.loads((folder / f"out/infer_free/{RESULTS}").read_text()), detections[0]
    )
    written = json.loads((folder / "out/ap.json").read_text())
    assert f"{written['bbox']['AP']:.4f}" == lines[0].split(",")[0].strip()


def test_targets_decide_the_status(folder, graphs, run_command):
    infer = ["pods_infer", "--model", "fixed.onnx"]
    done = run_command([*infer, "--target-ap", "99", "OUTPUT_DIR", "out"], folder, status=1)
    assert figures(done, "Target AP 99 is missed")
    keys = ["TEST.GRAPH.RESIZE", "stretch", "TEST.GRAPH.PROVIDER", "cpu", "OUTPUT_DIR", "out"]
    done = run_command([*infer, "--target-ap", "0", *keys], folder)
    assert figures(done, "Target AP 0 is met")
    speed = [*infer, "--mode", "performance", "--runs", "5"]
    done = run_command([*speed, "--target-fps", "1e9"], folder, status=1)
    assert figures(done, "Target images/s 1e+09 is missed")
    done = run_command([*speed, "--target-fps", "0.001", "--json", "speed.json"], folder)
    assert figures(done, "5 runs of 4 images: median", "p99", "images/s")
    assert figures(done, "FreeAnchor network, FP16, 96x128, by onnxruntime", "CPUExecutionProvider")
    written = json.loads((folder / "speed.json").read_text())
    assert written["batch"] == 4 and written["size"] == [96, 128]
    assert written["images_per_second"] > 0 and written["p99_s"] >= written["median_s"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model", "x.pth"], "--model must be a graph (.onnx, .pt2); got x.pth"),
        (["--model", "none.onnx"], "none.onnx does not exist"),
        (["--model", "fixed.onnx", "--batch", "0"], "--batch must be at least 1; got 0"),
        (["--model", "fixed.onnx", *SPEED, "--batch", "2"], "--batch must be 4, as in this graph"),
        (["--model", "free.onnx", *SPEED, "--runs", "0"], "--runs must be at least 1"),
        (["--model", "free.onnx", *SPEED, "--size", "9"], "--size must be HEIGHTxWIDTH"),
        (["--model", "free.onnx", *SPEED, "--size", "100x96"], "multiples of 16"),
        (
            ["--model", "free.onnx", *SPEED, "NO.SUCH.KEY", "1"],
            "KEY 1 would have no effect",
        ),
        (["--model", "free.onnx", "NO.SUCH.KEY", "1"], "NO.SUCH.KEY"),
        (["--model", "free.onnx", "--datasets", "nowhere"], "val2017 does not exist. --datasets"),
        (["--model", "free.onnx", "--provider", "tensorrt"], "this onnxruntime does not have"),
    ],
)
def test_errors(folder, graphs, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stop:
        infer([*flags, "--num-gpus", "0"])
    assert stop.value.code == 1 and message in capsys.readouterr().err


def test_training_from_a_graph_is_refused(folder, graphs, run_command):
    words = ["pods_train", "MODEL.WEIGHTS", "free.onnx", "OUTPUT_DIR", "out"]
    done = run_command(words, folder, status=1)
    assert "free.onnx" in done.stderr and "Traceback" not in done.stderr


def test_demo(folder, graphs, run_command, shapes_root):
    image = min((shapes_root / "shapes/val").glob("*"))
    words = ["pods_demo", "--input", image, "--json", "--score", "0.3", "--output", "shown"]
    run_command([*words, "MODEL.WEIGHTS", "fixed.onnx"], folder)
    (record,) = (folder / "shown").glob("*.json")
    assert json.loads(record.read_text())["detections"]


# -- scripts/infer_freeanchor_fp16_*.sh ------------------------------------------------------------


@pytest.fixture
def coco_layout(tmp_path, shapes_root):
    """Lay the shapes out as COCO: images/val2017, annotations/instances_val2017.json."""
    root = tmp_path / "coco"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    (root / "images/val2017").symlink_to(shapes_root / "shapes/val")
    source = shapes_root / "shapes/annotations/instances_val.json"
    shutil.copy(source, root / "annotations/instances_val2017.json")
    return root


def run_script(mode, cwd, *flags, **env):
    """Run a script as typed in `cwd`, with this environment's commands."""
    script = ROOT / f"scripts/infer_freeanchor_fp16_{mode}.sh"
    return subprocess.run(
        ["bash", str(script), *flags],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="no .venv beside the sources")
def test_scripts(folder, graphs, coco_layout):
    """The scripts run from another folder with relative paths; the target decides the status."""
    env = {"MODEL": "fixed.onnx", "EXPERIMENT": ".", "DATASETS_DIR": str(coco_layout)}
    done = run_script("accuracy", folder, "--target-ap", "0", "OUTPUT_DIR", "out", **env)
    assert done.returncode == 0, done.stderr
    assert figures(done, "Target AP 0 is met") and figures(done, "infer_val2017 in csv format")
    flags = ["--runs", "3", "--target-fps", "1e9", "--json", "a b/speed.json"]
    done = run_script("performance", folder, *flags, **env)
    assert (folder / "a b/speed.json").is_file()  # relative to where it was typed
    assert done.returncode == 1 and figures(done, "3 runs of 4 images"), done.stderr


def test_scripts_say_what_is_missing(tmp_path):
    done = run_script("performance", tmp_path, MODEL="none.onnx", WEIGHTS="")
    assert done.returncode == 1
    assert "error: the graph none.onnx does not exist." in done.stderr
    assert "WEIGHTS=x.pth" in done.stderr


def test_scripts_are_documented():
    text = (ROOT / "docs/deployment.md").read_text()
    for mode in ("accuracy", "performance"):
        assert f"bash scripts/infer_freeanchor_fp16_{mode}.sh" in text
    assert Path(ROOT / "scripts/infer_freeanchor_fp16.sh").is_file()
