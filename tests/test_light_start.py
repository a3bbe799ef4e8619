"""Starts without torch: commands, pure losses; names that are resolved on first use."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import subprocess
import sys

import pytest

import cvpods
import cvpods_ext
from cvpods.lazy import resolve
from cvpods_ext.console import COMMANDS
from tests.load_script import ROOT

MOST_MODULES = 300
# Prints what was loaded to the last line of stderr, whatever ends the process.
PROLOGUE = """
import atexit, json, sys
atexit.register(lambda: print("\\n" + json.dumps(sorted(sys.modules)), file=sys.stderr))
"""
HEAVY = ("torch", "torchvision", "numpy", "loguru", "matplotlib", "tensorboard")
# Packages that a pure loss must not pull in.
ENGINE = ("cvpods.engine", "cvpods.data", "cvpods.evaluation", "cvpods.checkpoint", "cvpods.tools")
# Commands whose first word is the name of a command of their own.
FIRST_WORDS = {"pods_debug": ["replay"], "pods_vis": ["alignment"]}


def start(program: str, *words: str, cwd: object = None) -> tuple[int, str, list[str]]:
    """Run a program; return its exit status, what it printed, and the modules that it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + program, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    *printed, loaded = done.stderr.strip().splitlines()
    return done.returncode, done.stdout + "\n".join(printed), ast.literal_eval(loaded)


def command(name: str, *words: str, cwd: object = None) -> tuple[int, str, list[str]]:
    """Run a command as start() does."""
    program = f"import sys; from cvpods_ext.console import {name} as main; sys.argv[0] = {name!r}"
    return start(f"{program}; main()", *words, cwd=cwd)


def check_light(modules: list[str]) -> None:
    """Check that nothing heavy was loaded."""
    assert not {name.partition(".")[0] for name in modules} & set(HEAVY)
    assert len(modules) <= MOST_MODULES


@pytest.mark.parametrize("name", [name for name in COMMANDS if ".tools." in COMMANDS[name]])
def test_help(name):
    status, printed, modules = command(name, *FIRST_WORDS.get(name, []), "--help")
    assert status == 0 and "usage" in printed
    check_light(modules)


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["--colour", "red"], 2, "unrecognized arguments: --colour"),
        (["--num-gpus", "many"], 2, "argument --num-gpus: must be a whole number; got 'many'"),
        (["--num-gpus", "-1"], 2, "argument --num-gpus: must be 0 or more; got -1"),
        (["--dir", "nowhere"], 1, "nowhere does not exist"),
        (["TEST.EVAL_PEROID", "5"], 1, "Did you mean TEST.EVAL_PERIOD?"),
        (["SOLVER.IMS_PER_BATCH", "many"], 1, "SOLVER.IMS_PER_BATCH must be an int"),
        (["SOLVER.IMS_PER_BATCH", "0"], 1, "SOLVER.IMS_PER_BATCH must be a whole number from 1"),
        (["SOLVER.IMS_PER_BATCH"], 1, "Overrides are KEY VALUE pairs"),
    ],
)
def test_a_wrong_start_of_a_training(experiment, words, status, message):
    found, printed, modules = command("pods_train", *words, cwd=experiment)
    assert found == status
    assert message in printed and "Traceback" not in printed
    check_light(modules)


def test_outside_an_experiment(tmp_path):
    status, printed, modules = command("pods_train", cwd=tmp_path)
    assert status == 1 and "is not an experiment: it has no config.py" in printed
    check_light(modules)


@pytest.mark.parametrize(
    "name, words",
    [
        ("pods_test", []),
        ("pods_check", []),
        ("pods_draw", []),
        ("pods_demo", ["--input", "x.jpg"]),
        ("pods_export", ["--output", "x.onnx"]),
        ("pods_infer", ["--model", "x.onnx"]),
        ("pods_vis", ["alignment", "--input", "x.jpg"]),
    ],
)
def test_a_misspelt_key(name, words, experiment):
    status, printed, modules = command(name, *words, "TEST.EVAL_PEROID", "5", cwd=experiment)
    assert status == 1 and "Did you mean TEST.EVAL_PERIOD?" in printed
    check_light(modules)


@pytest.mark.parametrize(
    "module",
    [
        "cvpods.modeling.losses",
        "cvpods.modeling.losses.focal_loss",
        "cvpods.modeling.losses.iou_loss",
        "cvpods.structures.slices",
        "cvpods.structures.geometry",
        "cvpods_ext.methods.atss.loss",
        "cvpods_ext.methods.auto_assign.loss",
        "cvpods_ext.methods.feature_align.loss",
        "cvpods_ext.methods.free_anchor.loss",
    ],
)
def test_a_loss_imports_nothing_of_the_engine(module):
    _, _, modules = start(f"import {module}")
    assert module in modules
    if module == "cvpods_ext.methods.free_anchor.loss":
        assert len([name for name in modules if name.startswith("cvpods")]) <= 15
    assert not [name for name in modules if name.startswith(ENGINE)]
    assert not {"torchvision", "matplotlib", "tensorboard", "loguru"} & set(modules)


def test_the_extension_changes_nothing_in_the_engine():
    _, _, modules = start("import cvpods_ext")
    assert "cvpods_ext" in modules
    assert [name for name in modules if name.startswith("cvpods.")] == []


def test_a_training_without_torchvision(experiment, shapes_root):
    """Nor torch's compiler, nor matplotlib: they take longer to import than torch does."""
    program = "from cvpods_ext.console import pods_train; pods_train()"
    words = ["SOLVER.LR_SCHEDULER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "-1"]
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + program, *words],
        cwd=experiment,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "CVPODS_DATASETS": str(shapes_root),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[:3000]
    modules = set(ast.literal_eval(done.stderr.strip().splitlines()[-1]))
    assert "torch" in modules
    assert not {"torchvision", "torch._dynamo", "matplotlib"} & modules


PACKAGES = [
    name
    for package in (cvpods, cvpods_ext)
    for _, name, is_package in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if is_package
]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_resolves(name):
    package = importlib.import_module(name)
    for public in getattr(package, "__all__", ()):
        assert public in dir(package)
        assert getattr(package, public) is not None


@pytest.mark.parametrize("name", PACKAGES)
def test_type_checkers_see_the_same_names(name):
    """The imports under TYPE_CHECKING, and the names at run time."""
    package = importlib.import_module(name)
    source = ast.parse((ROOT / name.replace(".", "/") / "__init__.py").read_text())
    blocks = [node for node in source.body if isinstance(node, ast.If)]
    if not blocks:
        return
    seen = {
        alias.name: node.module
        for node in blocks[0].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == sorted(package.__all__)
    for public, module in seen.items():
        if module != name:
            assert package._lazy_names[public] == f"{module}:{public}"


def test_a_module_does_not_hide_the_function_of_its_name():
    program = (
        "import cvpods.layers.nms, cvpods.engine.launch\n"
        "from cvpods.engine import launch\n"
        "from cvpods.layers import nms\n"
        "print(callable(nms), callable(launch), callable(cvpods.layers.nms))"
    )
    assert start(program)[1].strip() == "True True True"


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match=r"'cvpods\.layers' has no attribute 'nmz'"):
        cvpods.layers.nmz  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nmz'"):
        exec("from cvpods.layers import nmz")


@pytest.mark.parametrize("name", COMMANDS)
def test_entry_points(name):
    assert callable(resolve(COMMANDS[name]))
    assert f'{name} = "cvpods_ext.console:{name}"' in (ROOT / "pyproject.toml").read_text()
