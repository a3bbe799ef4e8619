"""pods_train and pods_test as a user types them, in processes of their own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch


def metrics(folder: Path) -> list[dict]:
    lines = (folder / "metrics.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(folder: Path) -> dict[int, float]:
    """Total loss by iteration; later lines (of a resumed run) replace earlier ones."""
    return {record["iteration"]: record["total_loss"] for record in metrics(folder)}


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def check_same_weights(one: Path, other: Path) -> None:
    """Bit for bit."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# Every iteration's own loss, not the median of a window.
EXACT = ["TRAINER.WINDOW_SIZE", "1"]


@pytest.mark.slow
def test_train_leaves_what_is_promised(experiment, run_command):
    result = run_command(["pods_train", "--num-gpus", "0"], experiment)
    output = experiment / "output"
    assert (experiment / "log").resolve() == output
    for name in ("log.txt", "config.json", "model_iter_0000002.pth", "model_final.pth"):
        assert (output / name).is_file(), name
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert list(output.glob("events.out.tfevents.*"))
    assert not list(output.glob("*.tmp")) and not list(output.glob(".*.tmp"))
    assert json.loads((output / "config.json").read_text())["MODEL.ATSS.NUM_CLASSES"] == 6
    records = metrics(output)
    assert [r["iteration"] for r in records] == [0, 1, 2, 3]
    assert {"lr", "total_loss", "loss_cls", "data_time"} <= set(records[0])
    assert "bbox/AP" in records[-1]
    log = (output / "log.txt").read_text()
    assert log.count("copypaste: AP,AP50,AP75,APs,APm,APl") == 1  # inference runs once
    assert "iter: 4/4" in log and "4 images per optimiser step" in log
    assert "README.md" not in [p.name for p in experiment.iterdir()]
    assert "total_loss" in result.stderr


@pytest.mark.slow
def test_resume_is_bit_identical(experiment, run_command):
    """4 iterations at once, against 2, a stop, and 2 more."""
    schedule = ["SOLVER.LR_SCHEDULER.NAME", "WarmupMultiStepLR"]
    whole = ["pods_train", *EXACT, *schedule, "OUTPUT_DIR", "whole"]
    run_command(whole, experiment)
    part = ["pods_train", *EXACT, *schedule, "OUTPUT_DIR", "parts"]
    run_command([*part, "SOLVER.LR_SCHEDULER.MAX_ITER", "2"], experiment)
    resumed = [part[0], "--resume", *part[1:]]
    result = run_command(resumed, experiment)
    assert "Continuing at iteration 2 of 4" in result.stderr
    assert losses(experiment / "parts") == losses(experiment / "whole")
    check_same_weights(experiment / "whole/model_final.pth", experiment / "parts/model_final.pth")


@pytest.mark.slow
def test_two_processes_train_like_one(experiment, run_command):
    """The same 4 images an iteration: 2 accumulated passes of 2, or 2 processes of 2.

    Batch norms see the same passes and the normalisers of the losses differ by the averaging over
    ranks alone, so the first losses agree closely, and the runs stay near each other.
    """
    options = [*EXACT, "MODEL.RESNETS.NORM", "FrozenBN", "TEST.EVAL_PERIOD", "-1"]
    run_command(["pods_train", *options, "OUTPUT_DIR", "one"], experiment)
    result = run_command(
        ["pods_train", "--num-processes", "2", *options, "OUTPUT_DIR", "two"], experiment
    )
    assert "2 process(es)" in result.stderr
    assert (experiment / "two/log.txt.rank1").is_file()
    one, two = losses(experiment / "one"), losses(experiment / "two")
    assert one.keys() == two.keys()
    assert two[0] == pytest.approx(one[0], rel=0.25)
    assert all(math.isfinite(value) for value in two.values())


@pytest.mark.slow
def test_two_processes_evaluate_every_image_once(experiment, run_command):
    run_command(["pods_train", "SOLVER.LR_SCHEDULER.MAX_ITER", "1"], experiment)
    results = {}
    for count in ("1", "2"):
        options = ["MODEL.ATSS.SCORE_THRESH_TEST", "0.0"]
        run_command(["pods_test", "--num-processes", count, *options], experiment)
        path = experiment / "output/inference/coco_instances_results.json"
        results[count] = json.loads(path.read_text())
    assert len(results["1"]) > 0
    assert results["1"] == results["2"]


@pytest.mark.slow
def test_pods_test_chooses_weights(experiment, run_command):
    run_command(["pods_train", "TEST.EVAL_PERIOD", "-1"], experiment)
    newest = run_command(["pods_test"], experiment)
    assert "Evaluating" in newest.stderr and "model_final.pth" in newest.stderr
    ranged = run_command(["pods_test", "--start-iter", "1", "--end-iter", "2"], experiment)
    assert "model_iter_0000002.pth" in ranged.stderr and "model_final" not in ranged.stderr
    named = run_command(["pods_test", "MODEL.WEIGHTS", "output/model_iter_0000002.pth"], experiment)
    assert "copypaste: Task: bbox" in named.stderr
    missing = run_command(["pods_test", "MODEL.WEIGHTS", "nowhere.pth"], experiment, status=1)
    assert "nowhere.pth does not exist" in missing.stderr and "Traceback" not in missing.stderr
    expected = "[['bbox', 'AP', 99.0, 0.1]]"
    missed = run_command(["pods_test", "TEST.EXPECTED_RESULTS", expected], experiment, status=1)
    assert "expected 99.0" in missed.stderr
    both = "('shapes_val', 'shapes_train')"
    run_command(["pods_test", "DATASETS.TEST", both], experiment)
    for name, images in (("shapes_val", 8), ("shapes_train", 24)):
        folder = experiment / "output/inference" / name
        found = json.loads((folder / "coco_instances_results.json").read_text())
        assert len({detection["image_id"] for detection in found}) <= images
        assert f"# {name}" in (folder / "results.md").read_text()
    results = json.loads((experiment / "output/inference/results.json").read_text())
    assert set(results) == {"shapes_val", "shapes_train", "provenance"}
    assert set(results["provenance"]["datasets"]) == {"shapes_val", "shapes_train"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, message",
    [
        (["TEST.EVAL_PEROID", "5"], "Did you mean TEST.EVAL_PERIOD?"),
        (["SOLVER.IMS_PER_BATCH=8"], "KEY VALUE"),
        (["SOLVER.IMS_PER_BATCH", "many"], "SOLVER.IMS_PER_BATCH must be an int"),
        (["MODEL.ATSS.NUM_CLASSES", "80"], "NUM_CLASSES 80, but 'shapes_train' has 6 classes"),
        (["DATASETS.TRAIN", "('shapes_trian',)"], "Did you mean shapes_train?"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth does not exist"),
        (["SOLVER.OPTIMIZER.NAME", "Adan"], "Did you mean AdamW?"),
        (["INPUT.AUG.TRAIN_PIPELINES", "[('RandomFlop', {})]"], "Did you mean RandomFlip?"),
        (["SOLVER.IMS_PER_BATCH", "0"], "SOLVER.IMS_PER_BATCH must be a whole number from 1"),
    ],
)
def test_bad_input_is_one_clear_message(experiment, run_command, options, message):
    result = run_command(["pods_train", *options], experiment, status=1)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_outside_an_experiment(tmp_path, run_command):
    result = run_command(["pods_train"], tmp_path, status=1)
    assert "is not an experiment" in result.stderr and "--dir" in result.stderr


@pytest.mark.slow
def test_a_missing_image_is_named(experiment, run_command, shapes_root, tmp_path):
    """A data root without its images, say an unmounted disk, before anything is built."""
    copy = tmp_path / "data" / "shapes"
    (copy / "train").mkdir(parents=True)
    (copy / "val").symlink_to(shapes_root / "shapes/val")
    (copy / "annotations").symlink_to(shapes_root / "shapes/annotations")
    data = {"CVPODS_DATASETS": str(copy.parent)}
    result = run_command(["pods_train"], experiment, status=1, **data)
    assert "error: The data check refuses 'shapes_train': missing file (24)" in result.stderr
    assert "train/000000.jpg" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_crash_exits_non_zero(experiment, run_command):
    (experiment / "net.py").write_text("def build_model(cfg):\n    raise RuntimeError('boom')\n")
    for count in ("1", "2"):
        result = run_command(["pods_train", "--num-processes", count], experiment, status=1)
        assert "boom" in result.stderr


@pytest.mark.slow
def test_amp_ema_channels_last_and_clipping_resume(experiment, run_command):
    options = [
        *("TRAINER.AMP.ENABLED", "True", "TRAINER.EMA.ENABLED", "true"),
        *("TRAINER.CHANNELS_LAST", "1", "SOLVER.CLIP_GRADIENTS.ENABLED", "True"),
        *("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model", "SOLVER.IMS_PER_BATCH", "3"),
    ]
    run_command(["pods_train", *options, "SOLVER.LR_SCHEDULER.MAX_ITER", "2"], experiment)
    run_command(["pods_train", "--resume", *options], experiment)
    content = torch.load(experiment / "output/model_final.pth", weights_only=True)
    assert content["iteration"] == 3
    assert content["ema"].keys() == content["model"].keys()
    name = "head.cls_score.weight"
    assert not torch.equal(content["ema"][name], content["model"][name])
    result = run_command(["pods_test"], experiment)
    assert "averaged tensors" in result.stderr


@pytest.mark.slow
def test_epoch_schedule(experiment, run_command):
    """23 of the 24 images have boxes at most; 4 a step: an epoch is ceil(n / 4) iterations."""
    options = ["SOLVER.LR_SCHEDULER.MAX_EPOCH", "1", "SOLVER.LR_SCHEDULER.WARMUP_ITERS", "0"]
    run_command(["pods_train", *options, "TEST.EVAL_PERIOD", "-1"], experiment)
    count = torch.load(experiment / "output/model_final.pth", weights_only=True)["iteration"] + 1
    assert count in (5, 6)


@pytest.mark.slow
def test_draw(experiment, run_command):
    run_command(["pods_train", "SOLVER.LR_SCHEDULER.MAX_ITER", "1"], experiment)
    run_command(["pods_draw", "--count", "3", "--score", "0.01"], experiment)
    assert (experiment / "output/inference/detections.png").stat().st_size > 10_000
