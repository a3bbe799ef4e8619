"""AutoAssign and FeatureAlign as a user types them, in copies of their trials on the shapes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cvpods_ext.configs.fragments import ASSIGN_ONLY, train_scales
from cvpods_ext.configs.fragments import test_scale as evaluation_scale
from tests.cvpods.tools.test_commands import check_same_weights, metrics, weights
from tests.load_script import ROOT

# 4 iterations of 2 tiny images with a checkpoint half-way, every loss on its own.
TINY = {
    **train_scales([64], 96),
    **evaluation_scale(64, 96),
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.IMS_PER_DEVICE": 2,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.LR_SCHEDULER.MAX_ITER": 4,
    "SOLVER.LR_SCHEDULER.WARMUP_ITERS": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "GLOBAL.LOG_INTERVAL": 1,
    "TRAINER.WINDOW_SIZE": 1,
    "TEST.EVAL_PERIOD": -1,
}


def words(values: dict) -> list[str]:
    """KEY VALUE KEY VALUE, as on a command line."""
    return [str(word) for pair in values.items() for word in pair]


@pytest.fixture
def copy_of(tmp_path):
    """Copy the trial of a method ("auto_assign") to a folder of its own."""

    def copy(method: str) -> Path:
        source = ROOT / f"playground/{method}.res18.shapes"
        folder = tmp_path / source.name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("output", "log", "__*"))
        return folder

    return copy


def losses(output: Path) -> dict[int, dict[str, float]]:
    """All losses by iteration; later lines, of a resumed run, replace earlier ones."""
    return {r["iteration"]: {k: v for k, v in r.items() if "loss" in k} for r in metrics(output)}


def check_same_run(one: Path, other: Path) -> None:
    """Bit for bit: every loss of every iteration, every weight in the end."""
    assert losses(one) == losses(other)
    assert list(losses(one)) == [0, 1, 2, 3]
    check_same_weights(one / "model_final.pth", other / "model_final.pth")


def interrupted(output: Path, copy: Path) -> None:
    """What a run leaves that ends after its second iteration, halfway to the fourth."""
    copy.mkdir()
    name = "model_iter_0000002.pth"
    shutil.copy(output / name, copy / name)
    (copy / "last_checkpoint").write_text(name)
    lines = (output / "metrics.json").read_text().splitlines(keepends=True)
    (copy / "metrics.json").write_text("".join(lines[:2]))


@pytest.mark.slow
def test_auto_assign(copy_of, run_command, shapes_root):
    """With the trial's own schedule: 4 iterations; interrupted after 2 and resumed."""
    folder = copy_of("auto_assign")
    train = ["pods_train", *words(TINY)]
    run_command(train, folder)
    output = folder / "output"
    interrupted(output, folder / "again")
    result = run_command([train[0], "--resume", *train[1:], "OUTPUT_DIR", "again"], folder)
    assert "Continuing at iteration 2 of 4" in result.stderr
    check_same_run(folder / "again", output)
    assert set(losses(output)[0]) == {"total_loss", "loss_pos", "loss_neg", "loss_norm"}
    trained = weights(output / "model_final.pth")
    assert trained["mu"].shape == trained["sigma"].shape == (6, 2)
    assert (trained["mu"] != 0).any() and (trained["sigma"] != 1).any()
    options = words({"MODEL.AUTO_ASSIGN.SCORE_THRESH_TEST": 0.0, **evaluation_scale(64, 96)})
    path = "output/model_iter_0000002.pth"
    result = run_command(["pods_test", "MODEL.WEIGHTS", path, *options], folder)
    assert "copypaste: Task: bbox" in result.stderr and path in result.stderr
    check_detections(folder, shapes_root)


def check_detections(folder: Path, data: Path) -> None:
    """At most 100 in each of the 8 images, within it, of its data set's six categories."""
    truth = json.loads((data / "shapes/annotations/instances_val.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    # Weights other than the newest checkpoint have a folder of their own.
    (path,) = (folder / "output/inference").glob("of_*/coco_instances_results.json")
    found = json.loads(path.read_text())
    assert {detection["category_id"] for detection in found} <= categories and len(categories) == 6
    images = [detection["image_id"] for detection in found]
    assert set(images) == set(sizes) and max(map(images.count, sizes)) <= 100
    for detection in found:
        (x, y, width, height), (right, bottom) = detection["bbox"], sizes[detection["image_id"]]
        assert x >= 0 and y >= 0 and width > 0 and height > 0
        assert x + width <= right + 0.01 and y + height <= bottom + 0.01  # three decimals


@pytest.mark.slow
def test_feature_align(copy_of, run_command, shapes_root):
    """All parts on, with the trial's own schedule: interrupted after 2 iterations, resumed.

    The attention's dropout continues where it stopped, although the whole run was evaluated after
    that checkpoint, and the resumed one made a new loader of training images.
    """
    folder = copy_of("feature_align")
    train = ["pods_train", *words({**TINY, "TEST.EVAL_PERIOD": 2})]
    run_command(train, folder)
    output = folder / "output"
    assert (folder / "log").resolve() == output
    interrupted(output, folder / "again")
    run_command([train[0], "--resume", *train[1:], "OUTPUT_DIR", "again"], folder)
    check_same_run(folder / "again", output)
    assert set(losses(output)[0]) == {"total_loss", "loss_pos", "loss_neg", "loss_quality"}
    trained = weights(output / "model_final.pth")
    assert trained["mu"].shape == trained["sigma"].shape == (4, 6, 2)
    assert any("encoder.layers.2." in name for name in trained)
    assert sum(name.endswith("offset.weight") for name in trained) == 2
    options = words({"MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST": 0.0, **evaluation_scale(64, 96)})
    path = "again/model_final.pth"
    result = run_command(["pods_test", "MODEL.WEIGHTS", path, *options], folder)
    assert "copypaste: Task: bbox" in result.stderr and path in result.stderr
    check_detections(folder, shapes_root)


@pytest.mark.slow
def test_assignment_alone(copy_of, run_command):
    """As the trial's own text says: without attention and without deformable towers."""
    folder = copy_of("feature_align")
    options = [*words(TINY), *words(ASSIGN_ONLY)]
    text = " ".join((folder / "config.py").read_text().split())
    assert " ".join(words(ASSIGN_ONLY)) in text
    run_command(["pods_train", *options], folder)
    output = folder / "output"
    interrupted(output, folder / "again")
    run_command(["pods_train", "--resume", *options, "OUTPUT_DIR", "again"], folder)
    check_same_run(folder / "again", output)
    trained = weights(output / "model_final.pth")
    assert not any("encoder" in name or "offset" in name for name in trained)
    assert trained["mu"].shape == (4, 6, 2)


@pytest.mark.slow
def test_another_number_of_classes_is_refused(copy_of, run_command):
    """Before the first iteration."""
    folder = copy_of("auto_assign")
    options = [*words(TINY), "MODEL.AUTO_ASSIGN.NUM_CLASSES", "80"]
    result = run_command(["pods_train", *options], folder, status=1)
    assert "NUM_CLASSES 80, but 'shapes_train' has 6 classes" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "output/metrics.json").exists()
    assert not list((folder / "output").glob("*.pth"))
