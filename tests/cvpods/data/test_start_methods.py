"""Loaders with workers started by fork, forkserver (Python 3.14) and spawn (macOS, Windows)."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

from cvpods.data import loader
from cvpods.data.loader import find_unsendable
from cvpods.data.registry import TRANSFORMS
from cvpods.data.transforms import TorchTransformGen, build_transform_gens
from cvpods.tools.experiment import load_experiment
from cvpods.utils.errors import ConfigError
from cvpods.utils.stop import shield_worker
from tests.conftest import command_environment

METHODS = multiprocessing.get_all_start_methods()

# -- objects that can be sent ----------------------------------------------------------------------


class Holder:
    def __init__(self, **entries):
        self.__dict__.update(entries)


def local_object():
    class Local:
        pass

    return Local()


def closure(number: int):
    def add(x):
        return x + number

    return add


@pytest.mark.parametrize(
    "make, name, path",
    [
        (lambda: Holder(a=1, f=lambda x: x), r"function .*<lambda> of test_start_m.*\d+,", ".f"),
        (
            lambda: [1, {"k": closure(2)}],
            r"function closure.<locals>.add of test_start",
            "[1]['k']",
        ),
        (lambda: functools.partial(max, closure(2)), r"function closure.<locals>.add", ".args[0]"),
        (lambda: Holder(x=[local_object()]), r"object of the class .*Local of test_start", ".x[0]"),
        (lambda: Holder(f=open(os.devnull)), r"class TextIOWrapper of the module _io", ".f"),  # noqa: SIM115
        (lambda: v2.Lambda(lambda x: x), r"function .*<lambda> of test_start", "._lambda"),
        (lambda: TorchTransformGen(v2.Lambda(lambda x: x)), r"<lambda>", ".transform._lambda"),
        (lambda: Holder(m=Holder(f=lambda: 0).f), r"<lambda>", ".m"),
    ],
)
def test_the_innermost_object_is_named(make, name, path):
    found = find_unsendable(make(), "dataset")
    assert found is not None and found[1].startswith("dataset" + path.partition("._lam")[0])
    message = loader._describe_unsendable(*found)
    assert re.search(name, message), message
    assert "NUM_WORKERS 0" in message and "dataset" in message


def test_circles_and_sendable_objects():
    circle = Holder(f=lambda: 0)
    circle.itself = circle
    assert find_unsendable(circle, "dataset")[1] == "dataset.f"
    assert find_unsendable(Holder(a=[1, torch.ones(2)]), "dataset") is None


_ARGUMENTS = {
    "RandomList": {"transforms": [("RandomFlip", {})]},
    "ShuffleList": {"transforms": [("RandomFlip", {})]},
    "OrderList": {"transforms": [("RandomFlip", {})]},
    "Resize": {"shape": (8, 8)},
    "ResizeShortestEdge": {"short_edge_length": 8},
    "ResizeLongestEdge": {"long_edge_length": 8},
    "RandomCrop": {"crop_type": "absolute", "crop_size": (4, 4)},
    "RandomBrightness": {"intensity_min": 0.5, "intensity_max": 1.5},
    "RandomContrast": {"intensity_min": 0.5, "intensity_max": 1.5},
    "RandomSaturation": {"intensity_min": 0.5, "intensity_max": 1.5},
    "RandomLighting": {"scale": 0.1},
    "RandomDistortion": {"hue": 0.1, "saturation": 1.5, "exposure": 1.5},
    "Pad": {"size": (20, 20)},
    "ResizeToFit": {"shape": (8, 8)},
    "TorchTransformGen": {"tfm": v2.RandomHorizontalFlip()},
}


@pytest.mark.parametrize("name", sorted(name for name, _ in TRANSFORMS))
def test_every_transform_can_be_sent(name):
    (built,) = build_transform_gens([(name, _ARGUMENTS.get(name, {}))])
    assert find_unsendable(built, name) is None
    assert type(pickle.loads(pickle.dumps(built))) is type(built)


def test_configs_can_be_sent(experiment):
    config, _ = load_experiment(experiment)
    again = pickle.loads(pickle.dumps(config))
    assert again == config and type(again) is type(config)
    again.MODEL.DEVICE = "cpu"
    assert again["MODEL"]["DEVICE"] == "cpu" != config.MODEL.DEVICE


# -- workers and signals ---------------------------------------------------------------------------


def shielded(pipe) -> None:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # as by a library
    shield_worker()
    pipe.send("ready")
    time.sleep(60)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="not on macOS and Windows")
@pytest.mark.parametrize("method", METHODS)
def test_a_worker_obeys_the_process_that_made_it(method):
    """SIGTERM from another process is ignored; from the creator it ends the worker, also with a
    fork server in between.
    """
    context = multiprocessing.get_context(method)
    mine, theirs = context.Pipe()
    worker = context.Process(target=shielded, args=(theirs,), daemon=True)
    with loader._stop_signals_blocked(
        method
    ):  # as Loader does; a library's threads start with the worker
        worker.start()
    try:
        assert mine.poll(60) and mine.recv() == "ready"
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
        worker.join(0.5)
        assert worker.is_alive()
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == 0
    finally:
        worker.kill()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="not on Windows")
def test_signals_wait_until_workers_are_started():
    """The main thread receives the blocked signals afterwards."""
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        with loader._stop_signals_blocked("fork"):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
            assert got == []
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


# -- trainings -------------------------------------------------------------------------------------

_RUN = """
import multiprocessing, sys

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    from cvpods_ext.console import pods_train

    pods_train(sys.argv[2:])
"""

# Classes of the experiment; the data set needs the names that net.py registers.
_OWN = """
from loguru import logger

from cvpods.data.datasets.coco import COCODataset
from cvpods.data.registry import DATASETS, PATH_ROUTES, TRANSFORMS
from cvpods.data.transforms import TransformGen


@DATASETS.register()
class OwnDataset(COCODataset):
    def __getitem__(self, index):
        DATASETS.get("registered by net")
        return super().__getitem__(index)


@TRANSFORMS.register()
class OwnTransform(TransformGen):
    def __call__(self, img, annotations=None, **kwargs):
        logger.warning("a line of the worker")
        return img, annotations


PATH_ROUTES.register(
    {
        "dataset_type": "OwnDataset",
        "evaluator_type": {"own": "coco"},
        "own": {
            "own_train": ("shapes/train", "shapes/annotations/instances_train.json"),
            "own_val": ("shapes/val", "shapes/annotations/instances_val.json"),
        },
    },
    "OWN",
)
config.override({"DATASETS.TRAIN": ("own_train",), "DATASETS.TEST": ("own_val",)})
config.INPUT.AUG.TRAIN_PIPELINES = [*config.INPUT.AUG.TRAIN_PIPELINES, ("OwnTransform", {})]
"""
_NET = """
from cvpods.data.registry import DATASETS

DATASETS.register(object, "registered by net")
"""


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def train(method: str, experiment: Path, shapes_root: Path, *words: str):
    script = experiment / "run.py"
    script.write_text(_RUN)
    return subprocess.run(
        [sys.executable, str(script), method, *words, "OUTPUT_DIR", method],
        cwd=experiment,
        env=command_environment(shapes_root),
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.slow
def test_a_training_of_two_iterations_and_its_evaluation(experiment, shapes_root):
    """Each start method ends with bit-identical weights and the same log."""
    append(experiment / "config.py", _OWN)
    append(experiment / "net.py", _NET)
    words = ["SOLVER.LR_SCHEDULER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "1"]
    weights = {}
    for method in METHODS:
        done = train(method, experiment, shapes_root, *words)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Traceback" not in done.stderr
        log = (experiment / method / "log.txt").read_text()
        assert "a line of the worker" in log and "copypaste: AP,AP50" in log
        path = experiment / method / "model_final.pth"
        weights[method] = torch.load(path, weights_only=True)["model"]
    first = weights[METHODS[0]]
    for other in weights.values():
        assert all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in METHODS if m != "fork"])
def test_a_lambda_among_the_transforms_is_named(method, experiment, shapes_root):
    own = """
from torchvision.transforms import v2

config.INPUT.AUG.TRAIN_PIPELINES = [("Torch_Invert", v2.Lambda(lambda sample: sample))]
"""
    append(experiment / "config.py", own)
    done = train(method, experiment, shapes_root, "DATALOADER.NUM_WORKERS", "1")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    line = (experiment / "config.py").read_text().splitlines().index(own.splitlines()[-1]) + 1
    assert f"The function <lambda> of config.py, line {line}, cannot be sent" in done.stderr
    assert f"which are started by {method}" in done.stderr and "NUM_WORKERS 0" in done.stderr


def test_a_loader_names_the_object_that_it_cannot_send(monkeypatch):
    made = loader.Loader([lambda: 0], num_workers=1)
    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", refuse)
    with pytest.raises(ConfigError, match=r"<lambda> of test_start_methods.py.*it is dataset\[0\]"):
        iter(made)
    with pytest.raises(pickle.PicklingError, match="refused"):
        iter(loader.Loader([1], num_workers=1))


def refuse(self):
    raise pickle.PicklingError("refused")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="not on macOS and Windows")
@pytest.mark.parametrize("method", [m for m in METHODS if m != "fork"])
def test_a_signal_to_all_processes(method, experiment, shapes_root):
    """The fork server and the workers get SIGTERM too; the run still saves and stops."""
    (experiment / "run.py").write_text(_RUN)
    words = "TEST.EVAL_PERIOD -1 DATALOADER.NUM_WORKERS 1 SOLVER.LR_SCHEDULER.MAX_ITER 400"
    process = subprocess.Popen(
        [sys.executable, "run.py", method, *words.split()],
        cwd=experiment,
        env=command_environment(shapes_root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    begun = ""
    for line in process.stderr:
        begun += line
        if "iter: 3/400" in line:
            break
    os.killpg(process.pid, signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(60) == 128 + signal.SIGTERM, begun[-2000:] + rest[-2000:]
    assert "iterations are done and saved" in rest and "Traceback" not in rest


# -- Predictor -------------------------------------------------------------------------------------

_PREDICT = """
import multiprocessing
import sys

from cvpods.tools import Predictor

FOLDER, WEIGHTS, IMAGE = sys.argv[2:]


def make():
    opts = ["MODEL.ATSS.SCORE_THRESH_TEST", 0.0]
    return Predictor.from_experiment(FOLDER, WEIGHTS, device="cpu", opts=opts)


def detect():
    return make()(IMAGE).scores.tolist()


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    with multiprocessing.Pool(1) as pool:
        made_there = pool.apply(detect)
        predictor = make()
        sent_there = pool.apply(predictor, (IMAGE,)).scores.tolist()
    assert len(made_there) > 10 and made_there == sent_there == detect()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_predictor_in_another_process(experiment, shapes_root, tmp_path, method):
    """A Predictor made or received in another process has the same detections as here."""
    config, build_model = load_experiment(experiment)
    torch.manual_seed(0)
    torch.save({"model": build_model(config).state_dict()}, tmp_path / "x.pth")
    (tmp_path / "predict.py").write_text(_PREDICT)
    image = next((shapes_root / "shapes" / "val").glob("*.jpg"))
    words = [sys.executable, "predict.py", method, experiment, tmp_path / "x.pth", image]
    done = subprocess.run(
        list(map(str, words)),
        cwd=tmp_path,
        env=command_environment(shapes_root),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
