"""Every block of the documentation is run as it is printed, or says why it is not.

A comment just before a block says what to do with it; it is not seen in the rendered page:

    <!-- run in: FOLDER -->     run it there, not in the repository's root
    <!-- file: PATH -->         a reader writes it into this file; "/data" is this test's own folder
    <!-- not run: REASON -->

Blocks of one document run in order, in a copy of the repository's layout whose experiments on the
shapes are tiny.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from torchvision.models import mobilenet_v2

from cvpods.tools.experiment import open_experiment
from cvpods.utils.video import VideoWriter
from tests.conftest import TINY
from tests.load_script import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", "datasets/README.md"]
PAGES += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
SHAPES = ["disc", "square", "triangle", "star", "ring", "cross"]


class Block(NamedTuple):
    """A fenced block: page and line, language, what its comment says, text."""

    where: str
    language: str
    kind: str
    value: str
    text: str


def blocks_of(page: str) -> list[Block]:
    """Return all fenced blocks of a page."""
    lines = (ROOT / page).read_text().splitlines()
    blocks, start = [], None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        before = lines[start - 1] if start else ""
        comment = re.fullmatch(r"<!-- (run in|file|not run): (.+) -->", before)
        kind, value = comment.groups() if comment else ("run in", ".")
        text = "\n".join(lines[start + 1 : number]) + "\n"
        blocks.append(Block(f"{page}:{start + 1}", lines[start][3:], kind, value, text))
        start = None
    assert start is None, f"{page}:{start} has no end"
    return blocks


BLOCKS = {page: blocks_of(page) for page in PAGES}
RUN = [page for page, blocks in BLOCKS.items() if any(b.kind != "not run" for b in blocks)]


def test_every_block_is_run_or_says_why_not():
    """Prints what is not run (pytest -s)."""
    blocks = [block for page in PAGES for block in BLOCKS[page]]
    for block in blocks:
        assert block.language in ("bash", "python"), block.where
        if block.kind == "not run":
            print(f"{block.where}: not run: {block.value}")
        assert block.value.strip()
    count = Counter(block.kind for block in blocks)
    print(dict(count))
    assert count["run in"] >= 15 and count["file"] >= 4 and count["not run"] <= 20


def test_no_block_is_indented():
    """Such a block has no language, and no comment of its own."""
    for page in PAGES:
        lines = re.sub(r"(?ms)^```.*?^```$", "", (ROOT / page).read_text()).splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            assert before.strip() or not re.match(r" {4}\S", line), (page, line)


# -- what the pages presume ------------------------------------------------------------------------


def tiny(method: str) -> dict:
    """Overrides that make an experiment on the shapes take a second."""
    keys = {k: v for k, v in TINY.items() if "ATSS" not in k}
    return {**keys, f"MODEL.{method}.NUM_CONVS": 1, "TEST.AUG.MIN_SIZES": (64, 80)}


def make_tiny(folder: Path, overrides: dict) -> None:
    with (folder / "config.py").open("a") as file:
        file.write(f"\nconfig.override({overrides!r})\n")


def save_weights(folder: Path, *paths: Path) -> None:
    """Save an untrained model of the experiment that finds many objects with scores above 0.5."""
    cfg, build_model = open_experiment(folder, device="cpu")
    torch.manual_seed(0)
    model = build_model(cfg)
    nn.init.constant_(model.head.cls_score.bias, 3.0)
    content = {"model": model.state_dict(), "thing_classes": SHAPES, "iteration": 99}
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        torch.save(content, path)


def save_pictures(folder: Path) -> None:
    """street.jpg, shots/, more/ and clip.mp4."""
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((160, 120))
    for name in ("street.jpg", "shots/a.jpg", "more/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        image.save(folder / name)
    with VideoWriter(folder / "clip.mp4", 5) as video:
        for _ in range(2):
            video.write(np.array(image))


def save_cells(folder: Path, file_names: tuple[str, ...]) -> None:
    """Files of six images of 128 pixels with three discs each, one of each of three classes."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(6):
        image = Image.new("RGB", (128, 128), "white")
        for c in range(3):
            box = [10 + 38 * c, 20 + 5 * i, 30, 30]
            color = ("red", "green", "blue")[c]
            ImageDraw.Draw(image).ellipse([box[0], box[1], box[0] + 30, box[1] + 30], color)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i + 1, "category_id": c + 1, "bbox": box}
            )
        image.save(folder / f"images/{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 128, "width": 128})
    categories = [{"id": c + 1, "name": name} for c, name in enumerate(("RBC", "WBC", "platelet"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for name in file_names:
        (folder / name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Make the repository's layout, with tiny experiments on the shapes, weights and pictures."""
    root = tmp_path_factory.mktemp("template")
    for name in ("playground", "scripts"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("output", "log"))
    (root / "datasets").mkdir()
    (root / "docs").mkdir()
    shutil.copy(ROOT / "docs/quickstart.png", root / "docs")
    for method in ("ATSS", "AUTO_ASSIGN", "FEATURE_ALIGN"):
        folder = root / f"playground/{method.lower()}.res18.shapes"
        make_tiny(folder, tiny(method))
        save_weights(folder, folder / "output/model_final.pth", folder / "x.pth")
    atss, align = (root / f"playground/{name}.res18.shapes" for name in ("atss", "feature_align"))
    shutil.copy(root / "playground/auto_assign.res18.shapes/x.pth", align / "y.pth")
    shutil.copy(atss / "x.pth", atss / "ours.pth")
    shutil.copy(atss / "x.pth", root / "x.pth")
    for folder in (root, atss, align):
        save_pictures(folder)
    save_cells(root / "data/cells", ("train.json", "val.json"))
    save_cells(root / "cells", ("train.json",))
    shutil.move(root / "cells/train.json", atss / "train.json")
    shutil.move(root / "cells/images", atss / "images")
    torch.save(mobilenet_v2().state_dict(), root / "data/mobilenet_v2.pth")
    return root


@pytest.fixture
def environment(programs, shapes_root) -> dict[str, str]:
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PATH": path, "CVPODS_DATASETS": str(shapes_root), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **own, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def bash(text: str, cwd: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-4000:]}"
    assert "Traceback" not in done.stdout, done.stdout[-4000:]


def write(block: Block, root: Path) -> None:
    """Write a block into its file. The config of a new experiment on small data becomes tiny."""
    path = root / block.value
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.text.replace("/data/", f"{root}/data/"))
    if "cells" in block.value and path.name == "config.py":
        weights = {"MODEL.WEIGHTS": str(root / "data/mobilenet_v2.pth")}
        keys = {k: v for k, v in TINY.items() if "ATSS" not in k and "FPN" not in k}
        make_tiny(path.parent, {**keys, **weights})
    if all((path.parent / name).is_file() for name in ("config.py", "net.py")):
        open_experiment(path.parent)


def prepare(block: Block, root: Path, environment: dict[str, str]) -> None:
    """Leave what a block presumes of an earlier training, or of another program."""
    atss = root / "playground/atss.res18.shapes"
    if "--start-iter 300" in block.text:
        content = {**torch.load(atss / "x.pth", weights_only=True), "iteration": 299}
        torch.save(content, atss / "output/model_iter_0000300.pth")
    if "their.pth" in block.text:
        bash("pods_convert ours.pth their.pth --to mmdet --method atss", atss, environment)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_blocks_of(page, template, tmp_path, environment):
    root = tmp_path / "repository"
    shutil.copytree(template, root)
    for block in BLOCKS[page]:
        cwd = root / block.value
        if block.kind == "not run":
            continue
        if block.kind == "file":
            write(block, root)
        elif block.language == "python":
            (cwd / "block.py").write_text(block.text)
            bash("python block.py", cwd, environment)
        else:
            prepare(block, root, environment)
            bash(block.text, cwd, environment)
