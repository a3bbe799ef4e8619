"""Evaluation: COCO's numbers, files and tables; results in the formats that scripts read."""

import contextlib
import copy
import io
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from cvpods.configs import BaseConfig
from cvpods.evaluation import (
    EVALUATOR,
    COCOEvaluator,
    DatasetEvaluator,
    evaluate_boxes,
    flatten_results_dict,
    inference_mode,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from cvpods.structures import Boxes, Instances
from cvpods.utils.errors import CheckpointError, ConfigError, DataError

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
SHARED = Path(os.environ.get("CVPODS_SHARED", Path(__file__).parents[4] / "shared"))
COCO_VAL = SHARED / "data" / "coco" / "annotations" / "instances_val2017.json"


# -- metrics ---------------------------------------------------------------------------------------


def record(id_, image_id, category_id, bbox, **more):
    """Return an annotation of the ground truth."""
    where = {"id": id_, "image_id": image_id, "category_id": category_id, "bbox": list(bbox)}
    return {**where, "area": bbox[2] * bbox[3], "iscrowd": 0, **more}


def found(image_id, category_id, bbox, score):
    """Return a detection."""
    bbox = [float(v) for v in bbox]
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def truth_of(annotations, classes=(1,), images=(1,)):
    return {
        "images": [{"id": id_, "width": 640, "height": 480} for id_ in images],
        "categories": [{"id": id_, "name": f"class {id_}"} for id_ in classes],
        "annotations": annotations,
    }


def reference(truth, detections, max_detections=100):
    """Return pycocotools' metrics and AP per class, in percent; NaN instead of its -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **copy.deepcopy(truth)}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), "bbox")
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    areas = [precision[:, :, :, area, -1] for area in (0, 1, 2, 3)]
    values = [areas[0], areas[0][0], areas[0][5], *areas[1:]]  # IoU 0.5 and 0.75
    names = [category["name"] for category in sorted(truth["categories"], key=lambda c: c["id"])]
    per_class = {name: mean(areas[0][:, :, k]) for k, name in enumerate(names)}
    return dict(zip(METRICS, map(mean, values), strict=True)), per_class


def mean(precision):
    valid = precision[precision > -1]
    return valid.mean() * 100 if valid.size else math.nan


def jitter(truth, seed, decimals=None):
    """Return detections: most near an object, some twice, some of another class, some anywhere."""
    random = np.random.default_rng(seed)
    classes = [category["id"] for category in truth["categories"]]
    detections = []
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        for _ in range(random.choice([0, 1, 1, 1, 2])):
            shift = random.normal(scale=random.choice([0.02, 0.1, 0.3]), size=4) * [w, h, w, h]
            box = np.maximum(np.array([x, y, w, h]) + shift, [0, 0, 1, 1])
            wrong = random.random() < 0.15
            label = random.choice(classes) if wrong else annotation["category_id"]
            score = random.random()
            score = score if decimals is None else round(score, decimals)
            detections.append(found(annotation["image_id"], int(label), box, float(score)))
    for image in truth["images"]:
        box = random.uniform([0, 0, 5, 5], [300, 200, 200, 200])
        detections.append(found(image["id"], int(random.choice(classes)), box, random.random()))
    return detections


def random_truth(seed):
    """Return 20 images with objects of all sizes, crowds, and classes 2, 5, 9 (31 is unused)."""
    random = np.random.default_rng(seed)
    annotations = []
    for image_id in range(100, 120):
        for _ in range(random.integers(0, 8)):
            size = random.choice([12, 25, 60, 150]) * random.uniform(0.7, 1.3, 2)
            corner = random.uniform(0, 400, 2)
            crowd = int(random.random() < 0.1)
            label = int(random.choice([2, 5, 9]))
            bbox = [float(v) for v in (*corner, *size)]
            id_ = len(annotations) + 1
            annotations.append(record(id_, image_id, label, bbox, iscrowd=crowd))
    return truth_of(annotations, classes=(31, 9, 2, 5), images=range(100, 120))


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name in expected:
        assert actual[name] == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("seed", range(4))
def test_same_numbers_as_pycocotools(seed, decimals):
    """They are equal even if many scores are equal."""
    truth = random_truth(seed)
    detections = jitter(truth, seed + 100, decimals)
    metrics, per_class, _ = evaluate_boxes(truth, detections)
    expected, expected_per_class = reference(truth, detections)
    assert_same(metrics, expected)
    assert_same(per_class, expected_per_class)
    assert 5 < metrics["AP"] < metrics["AP50"] < 95
    assert math.isnan(per_class["class 31"])


@pytest.mark.parametrize("max_detections", [10, 20, 300])
def test_other_numbers_of_detections(max_detections):
    """Score an image with 40 objects and 120 detections."""
    boxes = [(60 * (i % 8), 60 * (i // 8), 50, 50) for i in range(40)]
    truth = truth_of([record(i + 1, 1, 1, box) for i, box in enumerate(boxes)])
    detections = [d for seed in range(3) for d in jitter(truth, seed)]
    metrics, per_class, _ = evaluate_boxes(truth, detections, max_detections)
    expected, expected_per_class = reference(truth, detections, max_detections)
    assert_same(metrics, expected)
    assert_same(per_class, expected_per_class)


@pytest.mark.parametrize("max_detections, expected", [(100, 100), (8, 100), (5, 6300 / 101)])
def test_only_the_best_detections_count(max_detections, expected):
    """8 objects, all detected. The best 5 give recall 5/8 = 0.625 at precision 1.

    So 63 of the 101 recall thresholds 0, 0.01, ... are reached: AP 63/101.
    """
    boxes = [(60 * i, 10, 50, 50) for i in range(8)]
    truth = truth_of([record(i + 1, 1, 1, box) for i, box in enumerate(boxes)])
    detections = [found(1, 1, box, 0.9 - i / 100) for i, box in enumerate(boxes)]
    assert evaluate_boxes(truth, detections, max_detections)[0]["AP"] == pytest.approx(expected)


@pytest.mark.coco
def test_same_numbers_on_real_annotations():
    """COCO's own boxes, jittered: crowds, 80 classes, some of them absent."""
    if not COCO_VAL.is_file():
        pytest.skip(f"the COCO subset is not at {COCO_VAL}")
    truth = json.loads(COCO_VAL.read_text())
    assert any(annotation["iscrowd"] for annotation in truth["annotations"])
    detections = jitter(truth, seed=0)
    metrics, per_class, _ = evaluate_boxes(truth, detections)
    expected, expected_per_class = reference(truth, detections)
    assert len(per_class) == 80
    assert_same(metrics, expected)
    assert_same(per_class, expected_per_class)


def test_perfect_detections():
    """Sizes 20^2, 50^2 and 200^2: small, medium, large."""
    boxes = [(10, 10, 20, 20), (100, 10, 50, 50), (200, 200, 200, 200)]
    truth = truth_of([record(i + 1, 1, 1, box) for i, box in enumerate(boxes)])
    metrics, per_class, summary = evaluate_boxes(truth, [found(1, 1, b, 0.9) for b in boxes])
    assert metrics == pytest.approx(dict.fromkeys(METRICS, 100.0))
    assert per_class == pytest.approx({"class 1": 100.0})
    lines = summary.splitlines()
    assert len(lines) == 12
    assert all(line.startswith(" Average ") and line.endswith("1.000") for line in lines[:6])


def test_half_of_the_objects_detected():
    """Recall 1/2 at precision 1: 51 of 101 thresholds. No small or large object: NaN."""
    truth = truth_of([record(i, 1, 1, (60 * i, 10, 50, 50)) for i in (1, 2)])
    metrics, _, _ = evaluate_boxes(truth, [found(1, 1, (60, 10, 50, 50), 0.5)])
    half = 5100 / 101
    expected = [half, half, half, math.nan, half, math.nan]
    assert_same(metrics, dict(zip(METRICS, expected, strict=True)))


def test_loose_box():
    """IoU 50 x 40 / (50 x 50) = 0.8 passes 0.5 ... 0.75 and 0.8 (7 of 10): AP 70."""
    truth = truth_of([record(1, 1, 1, (10, 10, 50, 50))])
    metrics, _, _ = evaluate_boxes(truth, [found(1, 1, (10, 10, 50, 40.001), 0.5)])
    assert [metrics[m] for m in METRICS[:3]] == pytest.approx([70, 100, 100])


def test_no_detections():
    """AP is 0, or NaN for classes and sizes that do not occur."""
    truth = truth_of([record(1, 1, 1, (10, 10, 50, 50))], classes=(1, 2))
    metrics, per_class, _ = evaluate_boxes(truth, [])
    expected = [0, 0, 0, math.nan, 0, math.nan]
    assert_same(metrics, dict(zip(METRICS, expected, strict=True)))
    assert_same(per_class, {"class 1": 0.0, "class 2": math.nan})


def test_no_ground_truth_at_all():
    metrics, _, _ = evaluate_boxes(truth_of([]), [found(1, 1, (1, 1, 5, 5), 0.5)])
    assert all(math.isnan(value) for value in metrics.values())


def test_crowds_excuse_detections():
    """Detections within a crowd do not count as false positives."""
    crowd = record(1, 1, 1, (0, 0, 400, 400), iscrowd=1)
    truth = truth_of([crowd, record(2, 1, 1, (410, 10, 50, 50))])
    inside = [found(1, 1, (20 * i, 20 * i, 50, 50), 0.99) for i in range(5)]
    metrics, _, _ = evaluate_boxes(truth, [*inside, found(1, 1, (410, 10, 50, 50), 0.5)])
    assert metrics["AP"] == pytest.approx(100)


def test_difficult_objects_are_ignored():
    """Objects marked as by VOCDataset do not count, detected or not; by default, they count."""
    boxes = [(10, 10, 50, 50), (100, 10, 50, 50), (200, 10, 50, 50)]
    truth = truth_of([record(i + 1, 1, 1, b, ignore=int(i > 0)) for i, b in enumerate(boxes)])
    detections = [found(1, 1, boxes[1], 0.9), found(1, 1, boxes[0], 0.8)]
    metrics, _, _ = evaluate_boxes(truth, detections, leave_out_ignored=True)
    assert metrics["AP"] == pytest.approx(100)
    metrics, _, _ = evaluate_boxes(truth, detections)
    assert_same(metrics, reference(truth, detections)[0])
    assert metrics["AP"] < 70


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_ground_truth_may_lack_optional_keys(key):
    """The keys that COCODataset requires suffice; the area is then the area of the box."""
    annotations = [record(1, 1, 1, (10, 10, 20, 20)), record(2, 1, 1, (100, 10, 50, 50))]
    for annotation in annotations:
        del annotation[key]
    metrics, _, _ = evaluate_boxes(truth_of(annotations), [found(1, 1, (10, 10, 20, 20), 0.5)])
    assert (metrics["APs"], metrics["APm"]) == pytest.approx((100, 0))


def test_arguments_do_not_change():
    truth = random_truth(0)
    detections = jitter(truth, 1)
    before = copy.deepcopy((truth, detections))
    evaluate_boxes(truth, detections)
    assert (truth, detections) == before


# -- the evaluator ---------------------------------------------------------------------------------

META = SimpleNamespace(thing_dataset_id_to_contiguous_id={3: 0, 7: 1}, thing_classes=["cat", "dog"])
TRUTH = {
    "images": [{"id": id_, "width": 640, "height": 480} for id_ in (42, 43)],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [record(1, 42, 3, (10, 20, 50, 60)), record(2, 43, 7, (5, 6, 70, 80))],
}


def output(boxes, classes, scores=None):
    scores = torch.tensor(scores or [0.9] * len(boxes))
    fields = {"pred_boxes": Boxes(boxes), "scores": scores, "pred_classes": torch.tensor(classes)}
    return {"instances": Instances((480, 640), **fields)}


PERFECT = [
    (42, output([[10, 20, 60, 80]], [0])),
    (43, output([[5, 6, 75, 86]], [1])),
]


def evaluator(folder=None, ground_truth=TRUTH, **kwargs):
    return COCOEvaluator(
        "pets", META, BaseConfig(), output_dir=folder, ground_truth=ground_truth, **kwargs
    )


def process(what, outputs=PERFECT):
    for image_id, result in outputs:
        what.process([{"image_id": image_id}], [result])
    return what


def test_class_numbers_become_category_ids(tmp_path):
    """Class 0 is category 3, class 1 category 7; corners become x, y, width, height."""
    process(evaluator(tmp_path / "new" / "folder")).evaluate()
    written = json.loads((tmp_path / "new" / "folder" / "coco_instances_results.json").read_text())
    assert [(d["image_id"], d["category_id"], d["bbox"]) for d in written] == [
        (42, 3, [10, 20, 50, 60]),
        (43, 7, [5, 6, 70, 80]),
    ]
    assert [d["score"] for d in written] == pytest.approx([0.9, 0.9])


def test_results():
    """Detect a cat perfectly and a dog with IoU 1/4: AP 50."""
    outputs = [PERFECT[0], (43, output([[5, 6, 40, 46]], [1]))]
    results = process(evaluator(), outputs).evaluate()
    assert set(results) == {"bbox"}
    expected = {"AP": 50.0, "AP50": 50.0, "APm": 50.0, "AP-cat": 100.0, "AP-dog": 0.0}
    assert {name: results["bbox"][name] for name in expected} == pytest.approx(expected)
    assert list(results["bbox"])[:6] == METRICS


def test_tables(tmp_path, log):
    process(evaluator(tmp_path)).evaluate()
    report = (tmp_path / "results.md").read_text()
    for text in (report, "".join(log)):
        assert "Average Precision" in text and "Average Recall" in text
        assert any(line.split() == ["|", *" | ".join(METRICS).split(), "|"] for line in lines(text))
        assert "| cat" in text and "100.000" in text


def lines(text):
    return [line.replace("|", " | ") for line in text.splitlines()]


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    process(evaluator()).evaluate()
    assert list(tmp_path.iterdir()) == []


def test_no_annotations(tmp_path):
    """For the data set of a test server, the json is written and the results are empty."""
    assert process(evaluator(tmp_path, ground_truth=None)).evaluate() == {}
    assert [path.name for path in tmp_path.iterdir()] == ["coco_instances_results.json"]
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 2


def test_no_detections_in_the_results(tmp_path, log):
    empty = output(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64).tolist())
    results = process(evaluator(tmp_path), [(42, empty), (43, empty)]).evaluate()
    assert results["bbox"]["AP"] == results["bbox"]["AP-cat"] == 0
    assert any(line.startswith("WARNING") and "pets" in line for line in log)
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


@pytest.mark.parametrize("label", [2, 79, -1])
def test_class_outside_the_data_set(label):
    with pytest.raises(DataError, match=f"class {label}, but data set 'pets' has only 2 classes"):
        process(evaluator(), [(42, output([[1, 2, 3, 4]], [label]))])


def test_reset_discards_detections():
    what = process(evaluator())
    what.reset()
    assert process(what).evaluate()["bbox"]["AP"] == pytest.approx(100)
    what.reset()
    assert what.evaluate()["bbox"]["AP"] == 0


def test_number_of_detections_in_the_config(tmp_path):
    """20 wrong boxes before the right one: with 10 detections per image it does not count."""
    cfg = BaseConfig()
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    what = COCOEvaluator("pets", META, cfg, ground_truth=TRUTH)
    boxes = [[300.0, 300, 330, 330]] * 20 + [[10.0, 20, 60, 80]]
    results = process(what, [(42, output(boxes, [0] * 21, [0.9] * 20 + [0.1]))]).evaluate()
    assert results["bbox"]["AP-cat"] == 0


def test_processes_join_their_detections(monkeypatch):
    """Two processes with one image each: rank 0 scores both, the other returns {}."""
    parts = [process(evaluator(), [one])._detections for one in PERFECT]
    monkeypatch.setattr("cvpods.utils.comm.gather_list", lambda items: sum(parts, []))
    assert process(evaluator(), PERFECT[:1]).evaluate()["bbox"]["AP"] == pytest.approx(100)
    alone = process(evaluator(distributed=False), PERFECT[:1]).evaluate()
    assert alone["bbox"]["AP"] == pytest.approx(50)
    monkeypatch.setattr("cvpods.utils.comm.get_rank", lambda: 1)
    assert process(evaluator(), PERFECT[1:]).evaluate() == {}


def test_registered():
    assert EVALUATOR.get("coco") is COCOEvaluator


# -- results for other programs --------------------------------------------------------------------


def test_csv_lines(log):
    """The lines are those of cvpods; scripts search for 'copypaste: '."""
    values = dict(zip(METRICS, (40.25, 60.5, 41, 20, 45.12346, math.nan), strict=True))
    print_csv_format("coco_2017_val", {"bbox": {**values, "AP-person": 50.0}})
    assert [line.strip() for line in log] == [
        "INFO Evaluation results for coco_2017_val in csv format:",
        "INFO copypaste: Task: bbox",
        "INFO copypaste: AP,AP50,AP75,APs,APm,APl",
        "INFO copypaste: 40.2500,60.5000,41.0000,20.0000,45.1235,nan",
    ]


def test_csv_lines_of_several_tasks_and_none(log):
    print_csv_format("x", {"bbox": {"AP": 1.0}, "bbox_TTA": {"AP": 2.0}})
    tasks = [line.split()[-1] for line in log if "Task:" in line]
    assert tasks == ["bbox", "bbox_TTA"]
    log.clear()
    print_csv_format("x", {})
    assert log == []


def test_flatten():
    nested = {"bbox": {"AP": 1.0, "AP-cat": 2.0}, "val": {"bbox": {"AP": 3.0}}, "time": 4.0}
    assert flatten_results_dict(nested) == {
        "bbox/AP": 1.0,
        "bbox/AP-cat": 2.0,
        "val/bbox/AP": 3.0,
        "time": 4.0,
    }
    assert flatten_results_dict({}) == {}


RESULTS = {"bbox": {"AP": 38.5, "AP50": 60.0, "APs": math.nan, "APl": math.inf}}


@pytest.mark.parametrize(
    "expected, passed",
    [
        ([], True),
        ([["bbox", "AP", 38.5, 0.1]], True),
        ([["bbox", "AP", 38.4, 0.2]], True),
        ([("bbox", "AP", 39, 0.5)], True),
        ([["bbox", "AP", 39, 0.4]], False),
        ([["bbox", "AP", 38, 0.4]], False),
        ([["bbox", "AP", 38.5, 0.1], ["bbox", "AP50", 50, 1]], False),
        ([["bbox", "AP50", 50, 1], ["bbox", "AP", 38.5, 0.1]], False),
        ([["bbox", "APs", 20, 100]], False),
        ([["bbox", "APl", 20, 100]], False),
    ],
)
def test_verify_results(expected, passed, log):
    """NaN and infinity are outside any tolerance. Every miss is logged."""
    assert verify_results(expected, RESULTS) is passed
    assert any(line.startswith("ERROR") for line in log) is not passed


def test_every_miss_is_named(log):
    verify_results([["bbox", "AP", 10, 0.1], ["bbox", "AP50", 20, 0.2]], RESULTS)
    errors = [line for line in log if line.startswith("ERROR")]
    assert len(errors) == 2
    for part in ("bbox/AP ", "38.5", "10", "0.1"):
        assert part in errors[0]


@pytest.mark.parametrize(
    "entry",
    [
        ["bbox", "AP", 38.5],
        ["bbox", "AP", 38.5, 0.1, 0.2],
        ["segm", "AP", 38.5, 0.1],
        ["bbox", "mAP", 38.5, 0.1],
        ["bbox", "AP", "38.5", 0.1],
        ["bbox", "AP", 38.5, None],
        ["val", "bbox", 38.5, 0.1],
        [["bbox"], "AP", 38.5, 0.1],
        None,
        5,
        "bbox",
    ],
)
def test_entries_that_do_not_name_a_result(entry):
    """They are neither passed nor missed; the error lists the results."""
    results = {**RESULTS, "val": {"bbox": {"AP": 1.0}}}
    with pytest.raises(ConfigError) as raised:
        verify_results([entry], results)
    for part in ("TEST.EXPECTED_RESULTS", repr(entry), "bbox/AP50", "val/bbox/AP"):
        assert part in str(raised.value)


# -- running a model -------------------------------------------------------------------------------


class Model(nn.Module):
    """Model that records its calls."""

    def __init__(self, error=None):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm2d(1)
        self.error = error
        self.calls = []

    def forward(self, inputs):
        modes = [module.training for module in self.modules()]
        self.calls.append(
            (inputs, modes, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
        )
        if self.error:
            raise self.error
        return [x * self.scale for x in inputs]


class Collect(DatasetEvaluator):
    def __init__(self):
        self.seen = ["left over"]

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        assert not any(output.requires_grad for output in outputs)
        self.seen += [(x, output.item()) for x, output in zip(inputs, outputs, strict=True)]

    def evaluate(self):
        return {"bbox": {"AP": len(self.seen)}}


@pytest.mark.parametrize("training", [True, False])
def test_inference(training):
    """Run each batch once in evaluation mode, without gradients, and restore the mode."""
    model, collect = Model().train(training), Collect()
    results = inference_on_dataset(model, [[1, 2], [3]], collect)
    assert results == {"bbox": {"AP": 3}}
    assert collect.seen == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert [call[0] for call in model.calls] == [[1, 2], [3]]
    assert not any(any(modes) or gradients for _, modes, gradients, _ in model.calls)
    assert all(module.training is training for module in model.modules())
    assert torch.is_grad_enabled()


def test_modules_in_evaluation_mode_stay_in_it():
    """Modes are restored per module: a frozen norm layer does not start to learn."""
    model = Model().train()
    model.norm.eval()
    inference_on_dataset(model, [[1]], Collect())
    assert model.training and not model.norm.training


def test_the_mode_is_restored_after_an_error():
    model = Model(RuntimeError("out of memory")).train()
    with pytest.raises(RuntimeError, match="out of memory"):
        inference_on_dataset(model, [[1]], Collect())
    assert model.training and torch.is_grad_enabled()


def test_mixed_precision_in_every_batch():
    model = Model()
    autocast = torch.autocast("cpu", torch.bfloat16)
    inference_on_dataset(model, [[1], [2], [3]], Collect(), autocast)
    assert [call[3] for call in model.calls] == [True, True, True]
    assert not torch.is_autocast_enabled("cpu")


def test_no_data(log):
    assert inference_on_dataset(Model(), [], Collect()) == {"bbox": {"AP": 0}}
    assert any("Total inference time" in line for line in log)


def test_progress(log):
    """With 120 images, progress is logged after 50 and 100."""
    inference_on_dataset(Model(), [[1]] * 120, Collect())
    done = [line.split()[3] for line in log if "Inference done" in line]
    assert done == ["50/120.", "100/120."]


def test_weights_still_train_after_inference():
    """Inference tensors must not get into the model."""
    model = Model().train()
    with inference_mode(model):
        model([1.0])
    model([torch.ones(1)])[0].sum().backward()
    assert model.scale.grad.item() == 1


# -- values that are not finite --------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    """Such a model detects nothing: its AP of 0 would look like a result."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[1].running_var[2] = bad
    with pytest.raises(CheckpointError, match=r"1 tensors .* NaN, for example 1\.running_var"):
        inference_on_dataset(model, [], evaluator())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["scores", "pred_boxes"])
def test_detections_that_are_not_finite_are_refused(field, bad):
    result = output([[10, 20, 60, 80]], [0])
    values = result["instances"].get(field)
    (values.tensor if field == "pred_boxes" else values).view(-1)[0] = bad
    with pytest.raises(DataError, match="image 42 are not all finite"):
        process(evaluator(), [(42, result)])


def test_names_stay_in_their_cells(tmp_path):
    """Class names with a bar or a line break must not add cells or rows."""
    truth = copy.deepcopy(TRUTH)
    truth["categories"][0]["name"], truth["categories"][1]["name"] = "a|b", "two\nlines"
    results = process(evaluator(tmp_path, truth)).evaluate()
    assert {"AP-a|b", "AP-two\nlines"} <= set(results["bbox"])
    table = [t for t in (tmp_path / "results.md").read_text().splitlines() if t.startswith("|")][-1]
    assert table.replace("\\|", "").count("|") == 5 and "a\\|b" in table and "two lines" in table
