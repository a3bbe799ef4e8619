"""NMS recall: counts by hand, bounds on random boxes, files, and the command."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cvpods.configs import RetinaNetConfig
from cvpods.engine import DefaultRunner
from cvpods.evaluation import NMSRecallEvaluator
from cvpods.evaluation.nms_recall import THRESHOLDS, best_iou
from cvpods.layers import batched_nms
from cvpods.modeling.meta_arch import RetinaNet
from cvpods.modeling.pre_and_post_nms import PreAndPostNMS
from cvpods.structures import Boxes, Instances
from cvpods.tools.experiment import load_experiment
from cvpods.utils.errors import ConfigError, DataError
from tests.reference.boxes import iou
from tests.seeds import each_seed


def instances(boxes, scores=None, classes=None, size=(480, 640)):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.ones(len(boxes)) if scores is None else scores
    classes = torch.zeros(len(boxes), dtype=torch.int64) if classes is None else classes
    return Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)


def annotation(image_id, box, **more):
    """Return an annotation with the given corners."""
    x1, y1, x2, y2 = box
    return {"image_id": image_id, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], **more}


def evaluator(annotations, folder=None):
    return NMSRecallEvaluator("pets", {"annotations": annotations}, folder)


def process(what, image_id, before, after, **kwargs):
    output = {"before": instances(before, **kwargs), "after": instances(after)}
    what.process([{"image_id": image_id}], [output])
    return what


def recalls(what):
    return what.evaluate()["nms_recall"]


def counts(what):
    return what._detected["before"], what._detected["after"]


# -- by hand ---------------------------------------------------------------------------------------

# Two objects of 100 x 100 and the boxes of HAND.
FIRST, SECOND = (0, 0, 100, 100), (200, 0, 300, 100)
BEFORE = [[0, 0, 100, 96], [0, 0, 100, 80], [200, 0, 290, 100], [200, 0, 270, 100]]
AFTER = [[0, 0, 100, 80], [200, 0, 270, 100]]
FOUND_BEFORE = [2, 2, 2, 2, 2, 2, 2, 2, 1]
FOUND_AFTER = [2, 2, 2, 2, 1, 1, 0, 0, 0]
RATIOS = [1, 1, 1, 1, 0.5, 0.5, 0, 0, 0]


def by_hand(folder=None):
    return process(
        evaluator([annotation(1, FIRST), annotation(1, SECOND)], folder), 1, BEFORE, AFTER
    )


def test_hand_case():
    """Two objects with two boxes each; NMS keeps the worse box, because its score is higher.

    IoU with the first object: 0.96 before, 0.8 after; with the second one: 0.9 before, 0.7 after.

    t         .50  .55  .60  .65  .70  .75  .80  .85  .90
    before      2    2    2    2    2    2    2    2    1    0.9 is not above 0.9
    after       2    2    2    2    1    1    0    0    0    nor 0.7 above 0.7, 0.8 above 0.8
    NR          1    1    1    1   .5   .5    0    0    0    mean 5 / 9
    """
    what = by_hand()
    assert counts(what) == (FOUND_BEFORE, FOUND_AFTER)
    expected = {
        "NR": 500 / 9,
        "NR@0.50": 100,
        "NR@0.60": 100,
        "NR@0.70": 50,
        "NR@0.80": 0,
        "NR@0.90": 0,
    }
    results = recalls(what)
    assert results == pytest.approx(expected) and list(results) == list(expected)


def test_thresholds():
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def test_images_add_up():
    """Add 3 images whose object survives NMS to the hand case: (counts + 3) on both sides."""
    objects = [annotation(i, FIRST) for i in (2, 3, 4)]
    what = evaluator([annotation(1, FIRST), annotation(1, SECOND), *objects])
    process(what, 1, BEFORE, AFTER)
    inputs = [{"image_id": i} for i in (2, 3, 4)]
    what.process(inputs, [{"before": instances(FIRST), "after": instances(FIRST)}] * 3)
    assert counts(what) == ([n + 3 for n in FOUND_BEFORE], [n + 3 for n in FOUND_AFTER])
    expected = sum((a + 3) / (b + 3) for a, b in zip(FOUND_AFTER, FOUND_BEFORE, strict=True))
    assert recalls(what)["NR"] == pytest.approx(expected / 9 * 100)


def test_each_object_takes_its_best_box():
    """Several objects may share a box: 0-100 and 0-90 wide, one box 0-95 wide: 95 and 94.7 %."""
    what = evaluator([annotation(1, FIRST), annotation(1, (0, 0, 90, 100))])
    process(what, 1, [[0, 0, 95, 100], [0, 0, 60, 100]], [[0, 0, 95, 100]])
    assert counts(what) == ([2] * 9, [2] * 9)


def test_boxes_are_matched_within_their_image():
    """Image 2 has boxes where image 1 has its object."""
    what = evaluator([annotation(1, FIRST), annotation(2, SECOND)])
    process(what, 1, [SECOND], [SECOND])
    process(what, 2, [FIRST], [FIRST])
    assert counts(what) == ([0] * 9, [0] * 9)


def test_classes_are_ignored():
    """Boxes of any class detect objects of category 1."""
    what = evaluator([annotation(1, FIRST), annotation(1, SECOND)])
    process(what, 1, BEFORE, AFTER, classes=torch.tensor([7, 8, 9, 7]))
    assert counts(what) == (FOUND_BEFORE, FOUND_AFTER)


def test_crowds_do_not_count():
    """Detect a crowd perfectly before NMS only; iscrowd may be missing."""
    crowd = annotation(1, (300, 200, 400, 300), iscrowd=1)
    single = [annotation(1, FIRST, iscrowd=0), annotation(1, SECOND)]
    process(what := evaluator([crowd, *single]), 1, [*BEFORE, [300, 200, 400, 300]], AFTER)
    assert counts(what) == (FOUND_BEFORE, FOUND_AFTER)


def test_images_without_objects_do_not_count():
    """Process an image without annotations, and one with only a crowd."""
    what = evaluator([annotation(1, FIRST), annotation(1, SECOND), annotation(8, FIRST, iscrowd=1)])
    process(what, 1, BEFORE, AFTER)
    for image_id in (8, 9):
        process(what, image_id, BEFORE, [])
    assert counts(what) == (FOUND_BEFORE, FOUND_AFTER)


@pytest.mark.parametrize("images", [[], [1], [1, 2]])
def test_no_detections(images):
    """NR is 0, not NaN, even without any image."""
    what = evaluator([annotation(1, FIRST)])
    for image_id in images:
        process(what, image_id, [], [])
    assert set(recalls(what).values()) == {0.0}


def test_files_without_detections(tmp_path):
    evaluator([annotation(1, FIRST)], tmp_path).evaluate()
    written = json.loads((tmp_path / "nms_recall.json").read_text())
    assert written["ratios"] == written["found_before"] == written["found_after"] == [0] * 9


def test_no_annotations_in_the_file():
    assert set(recalls(process(evaluator([]), 1, BEFORE, AFTER)).values()) == {0.0}


def test_reset_discards_counts():
    what = by_hand()
    what.reset()
    assert recalls(what)["NR"] == 0
    process(what, 1, BEFORE, AFTER)
    assert counts(what) == (FOUND_BEFORE, FOUND_AFTER)


def test_data_set_without_annotations():
    with pytest.raises(
        DataError, match="needs annotations, which data set 'coco_2017_test' does not have"
    ):
        NMSRecallEvaluator("coco_2017_test", None)


# -- best IoU --------------------------------------------------------------------------------------


def random_boxes(count, generator, side=60.0):
    low = torch.rand(count, 2, generator=generator) * side
    return torch.cat([low, low + torch.rand(count, 2, generator=generator) * side / 2], 1)


@pytest.mark.parametrize("pairs_at_once", [2**24, 60, 1])
@pytest.mark.parametrize("seed", range(5))
def test_best_iou_matches_the_loop(seed, pairs_at_once, monkeypatch):
    """The table of 6 x 50 pairs is computed at once, or in parts of 6 x 10 or 6 x 1."""
    monkeypatch.setattr("cvpods.evaluation.nms_recall.PAIRS_AT_ONCE", pairs_at_once)
    generator = torch.Generator().manual_seed(seed)
    objects, boxes = random_boxes(6, generator), random_boxes(50, generator)
    expected = [max(iou(g, b) for b in boxes.tolist()) for g in objects.tolist()]
    assert best_iou(objects, boxes).tolist() == pytest.approx(expected, abs=1e-5)
    assert max(expected) > 0.3


def test_slices_are_no_larger_than_allowed(monkeypatch):
    """4 objects, 12 pairs at once: 10 boxes come as 3, 3, 3 and 1."""
    widths = []

    def iou(objects, part):
        widths.append(len(part))
        return torch.zeros(len(objects), len(part))

    monkeypatch.setattr("cvpods.evaluation.nms_recall.PAIRS_AT_ONCE", 12)
    monkeypatch.setattr("cvpods.evaluation.nms_recall.geometry.iou", iou)
    best_iou(torch.zeros(4, 4), torch.zeros(10, 4))
    assert widths == [3, 3, 3, 1]


@pytest.mark.parametrize(("objects", "boxes"), [(0, 0), (0, 3), (2, 0)])
def test_best_iou_of_nothing(objects, boxes):
    found = best_iou(torch.ones(objects, 4), torch.ones(boxes, 4))
    assert found.tolist() == [0.0] * objects


def test_best_iou_without_area():
    """For a point and itself, IoU is 0 / 0, which counts as 0."""
    points = torch.tensor([[5.0, 5, 5, 5], [0, 0, 10, 10]])
    assert best_iou(points, points[:1]).tolist() == [0, 0]
    assert best_iou(points, points).tolist() == [0, 1]


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
@each_seed(20)
def test_never_above_one(seed, threshold):
    """80 jittered boxes on 8 objects, 2 classes, random scores, real NMS: 0 <= NR(t) <= 1."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(8, 2, generator=generator) * 200
    objects = torch.cat([low, low + 20 + torch.rand(8, 2, generator=generator) * 80], 1)
    boxes = objects.repeat(10, 1) + torch.randn(80, 4, generator=generator) * 6
    scores = torch.rand(80, generator=generator)
    classes = torch.randint(0, 2, (80,), generator=generator)
    kept = batched_nms(boxes, scores, classes, threshold)
    what = process(evaluator([annotation(1, o) for o in objects.tolist()]), 1, boxes, boxes[kept])
    before, after = counts(what)
    assert before[0] == 8 and 0 < len(kept) < 80
    assert all(0 <= a <= b for a, b in zip(after, before, strict=True))
    assert all(0 <= value <= 100 for value in recalls(what).values())
    assert before == sorted(before, reverse=True) and after == sorted(after, reverse=True)
    if threshold < 0.8:  # of ten copies, NMS rarely keeps the best
        assert recalls(what)["NR"] < 100


# -- before and after a real detector's NMS --------------------------------------------------------


@functools.cache
def detector():
    """Return a tiny RetinaNet with score threshold 0 and small caps on detections."""
    torch.manual_seed(0)
    config = RetinaNetConfig()
    config.merge(
        MODEL={
            "DEVICE": "cpu",
            "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
            "FPN": {"OUT_CHANNELS": 16},
            "RETINANET": {
                "NUM_CLASSES": 2,
                "NUM_CONVS": 1,
                "SCORE_THRESH_TEST": 0.0,
                "TOPK_CANDIDATES_TEST": 4,
            },
        },
        TEST={"DETECTIONS_PER_IMAGE": 3},
    )
    model = RetinaNet(config).eval()
    with torch.no_grad():  # boxes near their anchors, so that none lies outside the image
        model.head.bbox_pred.weight.mul_(0.01)
    return model


def inputs_of(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "image_id": i,
        }
        for i, size in enumerate(sizes)
    ]


def rows(found):
    """Return {(x1, y1, x2, y2, score, class)}."""
    columns = [found.pred_boxes.tensor, found.scores[:, None], found.pred_classes[:, None]]
    return {tuple(row) for row in torch.cat(columns, 1).tolist()}


def around_nms(inputs, monkeypatch, nms_threshold):
    monkeypatch.setattr(detector(), "nms_threshold", nms_threshold)
    model = PreAndPostNMS(detector())
    assert model.num_classes == 2
    return model(inputs)


@pytest.mark.parametrize("nms_threshold", [0.5, 0.9])
def test_nms_returns_a_subset_of_its_input(nms_threshold, monkeypatch):
    inputs = inputs_of((64, 96), (50, 64))
    for output in around_nms(inputs, monkeypatch, nms_threshold):
        before, after = output["before"], output["after"]
        assert rows(after) < rows(before)
        kept = batched_nms(
            before.pred_boxes.tensor, before.scores, before.pred_classes, nms_threshold
        )
        assert rows(before[kept]) == rows(after)
        assert not after.scores.requires_grad


def test_no_cap(monkeypatch):
    """64 x 96 pixels have 96 + 24 + 6 + 2 + 1 locations on P3-P7, 9 anchors each, 2 classes: 2322.

    All of them come before NMS, whose rest exceeds the cap of an image; at IoU 1, it is all of
    them. An ordinary test has 4 candidates a level and 3 detections.
    """
    inputs = inputs_of((64, 96))
    (output,) = around_nms(inputs, monkeypatch, 0.5)
    total = (96 + 24 + 6 + 2 + 1) * 9 * 2
    assert len(output["before"]) == total
    assert 3 < len(output["after"]) < total
    (output,) = around_nms(inputs, monkeypatch, 1.0)
    assert len(output["after"]) == len(output["before"]) == total
    with torch.no_grad():
        assert len(detector()(inputs)[0]["instances"]) == 3


def test_score_threshold_holds(monkeypatch):
    everything = around_nms(inputs_of((64, 96)), monkeypatch, 0.5)[0]["before"].scores
    middle = everything.median().item()
    monkeypatch.setattr(detector(), "score_threshold", middle)
    (output,) = around_nms(inputs_of((64, 96)), monkeypatch, 0.5)
    assert len(output["before"]) == (everything > middle).sum() > 0
    monkeypatch.setattr(detector(), "score_threshold", 1.0)
    (output,) = around_nms(inputs_of((64, 96)), monkeypatch, 0.5)
    assert len(output["before"]) == len(output["after"]) == 0


def test_before_and_after_are_in_the_original_image(monkeypatch):
    """64 x 96 comes from 128 x 288: y doubles, x trebles; nothing else changes."""
    inputs = inputs_of((64, 96))
    (small,) = around_nms(inputs, monkeypatch, 0.5)
    (large,) = around_nms([{**inputs[0], "height": 128, "width": 288}], monkeypatch, 0.5)
    for side in ("before", "after"):
        assert large[side].image_size == (128, 288)
        assert torch.equal(large[side].scores, small[side].scores)
        expected = small[side].pred_boxes.tensor * torch.tensor([3.0, 2, 3, 2])
        assert torch.allclose(large[side].pred_boxes.tensor, expected, atol=1e-3)


def test_nms_that_drops_no_box_has_recall_one(monkeypatch):
    """NMS at IoU 1, objects where the detector has boxes: NR is 1 at every threshold, exactly."""
    inputs = inputs_of((64, 96), (50, 64))
    results = around_nms(inputs, monkeypatch, 1.0)
    objects = []
    for i, output in enumerate(results):
        boxes = output["before"].pred_boxes.tensor
        objects += [annotation(i, box) for box in boxes[:: len(boxes) // 5].tolist()]
    assert len(objects) >= 10
    what = evaluator(objects)
    what.process(inputs, results)
    assert counts(what) == ([len(objects)] * 9, [len(objects)] * 9)
    assert set(recalls(what).values()) == {100.0}
    what.reset()
    what.process(inputs, around_nms(inputs, monkeypatch, 0.5))
    assert 0 < recalls(what)["NR"] < 100


def test_other_models_are_refused():
    with pytest.raises(ConfigError, match="derived from DenseDetector, not with Linear"):
        PreAndPostNMS(nn.Linear(1, 1))


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder, made by the evaluator, with the files of the hand case."""
    folder = tmp_path_factory.mktemp("data") / "new" / "folder"
    by_hand(folder).evaluate()
    return folder


def test_json(folder):
    written = json.loads((folder / "nms_recall.json").read_text())
    assert written == {
        "thresholds": [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9],
        "ratios": RATIOS,
        "mean": pytest.approx(5 / 9),
        "found_before": FOUND_BEFORE,
        "found_after": FOUND_AFTER,
        "provenance": {},  # evaluate_data_sets() sets it
    }


def test_table(folder):
    text = (folder / "nms_recall.md").read_text()
    assert text.startswith("# NMS recall on pets\n")
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["NR", "NR@0.50", "NR@0.60", "NR@0.70", "NR@0.80", "NR@0.90"] in cells
    assert ["55.6", "100.0", "100.0", "50.0", "0.0", "0.0"] in cells
    for row in zip(THRESHOLDS, FOUND_BEFORE, FOUND_AFTER, RATIOS, strict=True):
        threshold, before, after, ratio = row
        assert [f"{threshold:.2f}", str(before), str(after), f"{ratio * 100:.1f}"] in cells


def test_picture(folder):
    """600 x 420 pixels, mostly paper, black letters, the curve in its blue (#0072B2).

    The curve is at 100 % on its left, high up, and at 0 % on its right, low down.
    """
    with Image.open(folder / "nms_recall.png") as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).int()
    assert pixels.shape == (420, 600, 3)
    assert (pixels == 255).all(dim=2).float().mean() > 0.7
    assert (pixels < 60).all(dim=2).sum() > 200
    y, x = (pixels == torch.tensor([0x00, 0x72, 0xB2])).all(dim=2).nonzero().unbind(1)
    assert len(x) > 200
    assert y[x < 200].max() < 100 and y[x > 450].min() > 250


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_hand().evaluate()
    assert list(tmp_path.iterdir()) == []


def test_processes_add_their_counts(monkeypatch, tmp_path):
    """Two processes with one image of one object each; only rank 0 writes the sums.

    Before 1 + 1 (IoU 0.96 and 0.9), after 1 + 1 (0.8 and 0.7), as in the hand case.
    """
    objects = [annotation(1, FIRST), annotation(2, SECOND)]
    first = process(evaluator(objects, tmp_path), 1, BEFORE[:2], AFTER[:1])
    second = process(evaluator(objects, tmp_path), 2, BEFORE[2:], AFTER[1:])
    monkeypatch.setattr(
        "cvpods.utils.comm.gather", lambda data: [first._detected, second._detected]
    )
    assert recalls(first)["NR"] == pytest.approx(500 / 9)
    written = json.loads((tmp_path / "nms_recall.json").read_text())
    assert (written["found_before"], written["found_after"]) == (FOUND_BEFORE, FOUND_AFTER)
    (tmp_path / "nms_recall.json").unlink()
    monkeypatch.setattr("cvpods.utils.comm.gather", lambda data: [])
    monkeypatch.setattr("cvpods.utils.comm.get_rank", lambda: 1)
    assert second.evaluate() == {}
    assert not (tmp_path / "nms_recall.json").exists()


# -- the command -----------------------------------------------------------------------------------

LOW = ["MODEL.ATSS.SCORE_THRESH_TEST", "0.008"]
TWO_SCALES = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48,)"]
TWO_SCALES += ["TEST.AUG.EXTRA_SIZES", "((72, 96),)"]


@pytest.fixture
def trained(experiment, shapes_root, monkeypatch):
    """Return an experiment with random weights, and its model."""
    monkeypatch.setenv("CVPODS_DATASETS", str(shapes_root))
    config, build_model = load_experiment(experiment)
    torch.manual_seed(0)
    config.MODEL.DEVICE = "cpu"
    model = build_model(config)
    output = experiment / "output"
    output.mkdir()
    torch.save({"model": model.state_dict()}, output / "model_final.pth")
    return config, model


@pytest.mark.slow
def test_nms_recall_of_an_experiment(experiment, trained, run_command):
    """Its files are written beside those of an ordinary test, which do not change."""
    folder = experiment / "output" / "inference"
    folder.mkdir()
    (folder / "results.json").write_text("of an ordinary test")
    result = run_command(["pods_test", "--num-gpus", "0", "--nms-recall", *LOW], experiment)
    written = json.loads((folder / "nms_recall.json").read_text())
    before, after = written["found_before"], written["found_after"]
    assert all(0 <= a <= b for a, b in zip(after, before, strict=True)) and 0 < after[0] < before[0]
    assert "copypaste: Task: nms_recall" in result.stderr
    assert "copypaste: NR,NR@0.50,NR@0.60,NR@0.70,NR@0.80,NR@0.90" in result.stderr
    assert (folder / "results.json").read_text() == "of an ordinary test"
    assert {path.name for path in folder.iterdir()} == {
        "results.json",
        *(f"nms_recall.{suffix}" for suffix in ("json", "md", "png")),
    }


def test_nms_recall_refuses_several_scales():
    """A config with several scales is refused, rather than evaluated at one scale."""
    config = RetinaNetConfig()
    config.TEST.AUG.ENABLED = True
    with pytest.raises(ConfigError, match="TEST.AUG.ENABLED False"):
        DefaultRunner.test_nms_recall(config, detector())


@pytest.mark.slow
def test_multi_scale_test_of_an_experiment(experiment, trained, run_command):
    """Test at short edges 48 and 72, plain and mirrored: the detections differ.

    Their files are written beside those of an ordinary test, which do not change.
    """
    plain = experiment / "output" / "inference"
    plain.mkdir()
    (plain / "results.json").write_text("of an ordinary test")
    run_command(["pods_test", "--num-gpus", "0", *LOW, *TWO_SCALES], experiment)
    folder = experiment / "output" / "inference_TTA"
    assert "AP" in json.loads((folder / "results.json").read_text())["bbox"]
    assert [path.name for path in plain.iterdir()] == ["results.json"]
    assert (plain / "results.json").read_text() == "of an ordinary test"
    augmented = json.loads((folder / "coco_instances_results.json").read_text())
    config, model = trained
    model.score_threshold = 0.008
    config.merge_from_list([*LOW, *TWO_SCALES])
    for enabled in (True, False):
        config.TEST.AUG.ENABLED = enabled
        DefaultRunner.test(config, model, experiment / str(enabled))
        path = experiment / str(enabled) / "coco_instances_results.json"
        assert (json.loads(path.read_text()) == augmented) is enabled
    assert len(augmented) > 0
