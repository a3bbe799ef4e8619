"""COCO's average precision (AP), and the evaluator that computes it."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from loguru import logger
from tabulate import tabulate

from cvpods.checkpoint.atomic import write_file
from cvpods.evaluation.evaluator import DatasetEvaluator
from cvpods.evaluation.provenance import report_lines
from cvpods.evaluation.registry import EVALUATOR
from cvpods.structures import BoxMode, Instances
from cvpods.structures.samples import Detection, Sample
from cvpods.utils import comm
from cvpods.utils.coco_values import (
    category_order,
    ids_by_number,
    names_of,
    read_area,
    read_box,
    read_flag,
    read_id,
    read_number,
    whole_number,
)
from cvpods.utils.errors import DataError

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# Numbers 1, 2, ... of the images or classes, by their ids.
Numbers: TypeAlias = Mapping[int | str, int]


def evaluate_boxes(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    max_detections: int = 100,
    *,
    leave_out_ignored: bool = False,
) -> tuple[dict[str, float], dict[str, float], str]:
    """Compute COCO's box metrics with faster-coco-eval, whose numbers are those of pycocotools.

    Args:
        ground_truth: in COCO's json format; ids may have any type, see match_boxes().
        detections: in COCO's result format; boxes xywh in pixels.
        max_detections: number of detections per image and class, by score, that count.
        leave_out_ignored: if True, objects marked "ignore": 1 count neither as missed nor as
            detected, and detections that match them do not count; by default they are objects like
            others, as in pycocotools.

    Returns:
        The metrics AP, AP50, AP75, APs, APm, APl in percent (NaN if a size does not occur), the AP
        of each class, and COCO's summary as text. Without detections, every AP is 0. A class name
        that occurs twice is followed by the id.

    Raises:
        DataError: a detection names an image that is not in the ground truth, or writes its class
            as a text instead of a number; or an annotation or a detection cannot be read.
    """
    printed = io.StringIO()
    evaluation, categories = match_boxes(
        ground_truth,
        detections,
        max_detections,
        printed.write,
        leave_out_ignored=leave_out_ignored,
    )
    with contextlib.redirect_stdout(printed):
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # (IoU, recall, class, area, max detections)
    per_class = {
        name: _mean(precision[:, :, index, 0, -1]) for index, name in enumerate(categories)
    }
    at = {t: iou_index(evaluation, t) for t in (0.5, 0.75)}
    values = [
        _mean(precision[:, :, :, 0, -1]),
        _mean(precision[at[0.5], :, :, 0, -1]),
        _mean(precision[at[0.75], :, :, 0, -1]),
        *(_mean(precision[:, :, :, area, -1]) for area in (1, 2, 3)),
    ]
    # Keep the twelve lines that COCO's own code prints.
    lines = printed.getvalue().replace(" Average", "\n Average").splitlines()
    summary = "\n".join([line for line in lines if "Average" in line][:12])
    return dict(zip(METRICS, values, strict=True)), per_class, summary


def match_boxes(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    max_detections: int = 100,
    print_function: Callable[[str], object] = lambda text: None,
    *,
    leave_out_ignored: bool = False,
) -> tuple[COCOeval_faster, list[str]]:
    """Match detections to objects as COCO does; see evaluate_boxes() for the arguments.

    Images, classes and annotations are numbered 1, 2, ..., so that ids may have any type: COCO's
    code marks a matched object by the annotation's id and an unmatched one by 0, and requires
    64-bit numbers. It orders equal scores by the image's id, see image_order().

    Returns:
        COCO's evaluation after accumulate(), and the class names in its order. `evaluation.eval`
        contains "precision" and "scores" as (IoU, recall, class, area, max detections).
    """
    categories = {read_id(c["id"]): c for c in ground_truth["categories"]}
    order = category_order(categories)
    class_number = {id_: number for number, id_ in enumerate(order, 1)}
    image_number = {id_: n for n, id_ in enumerate(image_order(ground_truth), 1)}
    numbered = {
        "info": {},
        "images": [{"id": number} for number in image_number.values()],
        "categories": [{"id": number, "name": str(number)} for number in class_number.values()],
    }
    annotations = [
        {"id": number, **_object(annotation, image_number, class_number)}
        for number, annotation in enumerate(ground_truth["annotations"], 1)
    ]
    numbered_detections = [
        _detection(detection, image_number, class_number)
        for detection in detections
        if _has_known_class(detection, class_number)
    ]
    coco_gt = COCO({**numbered, "annotations": annotations})
    coco_dt = (
        coco_gt.loadRes(numbered_detections)
        if numbered_detections
        else COCO({**numbered, "annotations": []})
    )
    kind = _WithoutIgnored if leave_out_ignored else COCOeval_faster
    evaluation = kind(coco_gt, coco_dt, "bbox", print_function=print_function)
    evaluation.params.maxDets = [1, min(10, max_detections), max_detections]
    evaluation.params.catIds = list(class_number.values())
    evaluation.evaluate()
    evaluation.accumulate()
    names = names_of(categories)
    return evaluation, [names[id_] for id_ in order]


def image_order(ground_truth: dict[str, Any]) -> list[int | str]:
    """Return the ids of the images in the order in which COCO's code ranks equal scores.

    Numbers ascend, as in pycocotools. Texts, and numbers that descend throughout the file, keep the
    order of the file.
    """
    ids = [read_id(image["id"]) for image in ground_truth["images"]]
    if any(isinstance(id_, str) for id_ in ids) or ids == sorted(ids, reverse=True):
        return ids
    return sorted(ids)


def iou_index(evaluation: COCOeval_faster, iou: float) -> int:
    """Return the index of an IoU threshold in the arrays of `evaluation.eval`."""
    return int(np.argmin(np.abs(evaluation.params.iouThrs - iou)))


class _WithoutIgnored(COCOeval_faster):
    """COCO evaluation that ignores objects marked "ignore".

    COCO's code overwrites "ignore" by "iscrowd".
    """

    def _prepare(self) -> None:
        marked = [a for a in self.cocoGt.dataset["annotations"] if a["ignore"]]
        super()._prepare()
        for annotation in marked:
            annotation["ignore"] = 1


def _object(annotation: Mapping[str, Any], images: Numbers, classes: Numbers) -> dict[str, Any]:
    """Return the keys of an annotation that COCO's code reads, in plain numbers."""
    try:
        box = read_box(annotation["bbox"])
        return {
            "image_id": _number(annotation, "image_id", images),
            "category_id": _number(annotation, "category_id", classes),
            "bbox": box,
            "area": read_area(annotation.get("area"), box),
            "iscrowd": int(read_flag(annotation.get("iscrowd"))),
            "ignore": int(read_flag(annotation.get("ignore"))),
        }
    except (ValueError, KeyError) as error:
        raise DataError(f"Annotation {annotation!r:.200} cannot be evaluated: {error}") from error


def _detection(detection: Mapping[str, Any], images: Numbers, classes: Numbers) -> dict[str, Any]:
    """Return a detection with the numbers of its image and class."""
    try:
        return {
            "image_id": _number(detection, "image_id", images),
            "category_id": _number(detection, "category_id", classes),
            "bbox": _finite(read_box(detection["bbox"])),
            "score": _finite([read_number(detection["score"])])[0],
        }
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"Detection {detection!r:.200} cannot be evaluated: {error}") from error


def _has_known_class(detection: Mapping[str, Any], classes: Numbers) -> bool:
    """Return False for a class that is not in the ground truth; COCO's code skips such detections.

    Return True for a class of another type ("3" for 3), so that _number() raises an error.
    """
    try:
        id_ = read_id(detection["category_id"])
    except (ValueError, LookupError, TypeError):
        return True  # so that _detection() raises an error
    return id_ in classes or whole_number(id_) in ids_by_number(classes)


def _finite(numbers: list[float]) -> list[float]:
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{numbers} is not finite")
    return numbers


def _number(record: Mapping[str, Any], key: str, numbers: Numbers) -> int:
    """Return the number of the image or class that `record` names."""
    id_ = read_id(record[key])
    if id_ not in numbers:
        raise ValueError(f"the ground truth has no {key.removesuffix('_id')} with id {id_!r}")
    return numbers[id_]


def _mean(precision: np.ndarray) -> float:
    """Return the mean in percent of all values but -1, which marks missing ground truth."""
    valid = precision[precision > -1]
    return float(valid.mean() * 100) if valid.size else float("nan")


@EVALUATOR.register(name="coco")
class COCOEvaluator(DatasetEvaluator):
    """Evaluator of COCO's AP: detections of all processes are written as json and scored on rank 0.

    Args:
        dataset_name: name for messages and tables.
        meta: the data set's meta, with thing_dataset_id_to_contiguous_id.
        cfg: TEST.DETECTIONS_PER_IMAGE and TEST.LEAVE_OUT_IGNORED are read from it.
        output_dir: folder for coco_instances_results.json and results.md.
        dump: ignored; cvpods' signature has it.
        ground_truth: COCO's json content; None writes only the json (test-dev).
    """

    def __init__(
        self,
        dataset_name: str,
        meta: SimpleNamespace,
        cfg: Any,
        distributed: bool = True,
        output_dir: str | Path | None = None,
        dump: bool = False,
        *,
        ground_truth: dict[str, Any] | None = None,
    ) -> None:
        self.dataset_name = dataset_name
        to_contiguous = meta.thing_dataset_id_to_contiguous_id
        self.category_ids = {index: id_ for id_, index in to_contiguous.items()}
        self.max_detections = cfg.TEST.DETECTIONS_PER_IMAGE
        by_dataset = getattr(meta, "leave_out_ignored", False)
        self.leave_out_ignored = by_dataset or cfg.TEST.get("LEAVE_OUT_IGNORED", False)
        self.distributed = distributed
        self.output_dir = Path(output_dir) if output_dir else None
        self.ground_truth = ground_truth
        self.reset()

    def reset(self) -> None:
        self._detections: list[dict[str, Any]] = []

    def process(self, inputs: Sequence[Sample], outputs: Sequence[Detection]) -> None:
        """Collect the detections of a batch.

        Raises:
            DataError: a detection is not finite, or its class is not in the data set.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            self._collect(sample["image_id"], output["instances"].to("cpu"))

    def _collect(self, image_id: int | str, instances: Instances) -> None:
        boxes = instances.pred_boxes.tensor
        if not (instances.scores.isfinite().all() and boxes.isfinite().all()):
            raise DataError(
                f"The detections in image {image_id!r} are not all finite: the weights are "
                "damaged, or the training has diverged."
            )
        xywh = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
        classes = instances.pred_classes.tolist()
        for box, score, label in zip(xywh, instances.scores.tolist(), classes, strict=True):
            if label not in self.category_ids:
                raise DataError(
                    f"The model predicts class {label}, but data set {self.dataset_name!r} has "
                    f"only {len(self.category_ids)} classes."
                )
            self._detections.append(
                {
                    "image_id": image_id,
                    "category_id": self.category_ids[label],
                    "bbox": [round(value, 3) for value in box],
                    "score": score,
                }
            )

    def evaluate(self) -> dict[str, dict[str, float]]:
        detections = self._detections
        if self.distributed:
            detections = comm.gather_list(detections)
        if not comm.is_main_process():
            return {}
        if self.output_dir is not None:
            path = self.output_dir / "coco_instances_results.json"
            write_file(path, json.dumps(detections).encode())
            logger.info(f"Wrote {len(detections)} detections to {path}")
        if self.ground_truth is None:
            logger.info(
                f"{self.dataset_name} has no annotations; submit the detections to its server."
            )
            return {}
        if not detections:
            logger.warning(f"The model has no detections on {self.dataset_name}; AP is 0.")
        metrics, per_class, summary = evaluate_boxes(
            self.ground_truth,
            detections,
            self.max_detections,
            leave_out_ignored=self.leave_out_ignored,
        )
        tables = f"{_metric_table(metrics)}\n\n{_class_table(per_class)}"
        logger.info(f"Evaluation on {self.dataset_name}:\n{summary}\n\n{tables}")
        if self.output_dir is not None:
            origin = report_lines(self.provenance, self.dataset_name)
            report = f"# {self.dataset_name}\n\n```\n{summary}\n```\n\n{tables}\n{origin}"
            write_file(self.output_dir / "results.md", report.encode())
        named = {f"AP-{name}": value for name, value in per_class.items()}
        return {"bbox": {**metrics, **named}}


def _metric_table(metrics: dict[str, float]) -> str:
    return tabulate([metrics.values()], headers=metrics.keys(), tablefmt="pipe", floatfmt=".3f")


def _in_cell(name: str) -> str:
    """Return a name that stays within its cell in a Markdown table."""
    return " ".join(name.split()).replace("|", "\\|")


def _class_table(per_class: dict[str, float], columns: int = 3) -> str:
    """Return a Markdown table of the AP of each class, with `columns` classes in a row."""
    pairs = [(_in_cell(name), value) for name, value in per_class.items()]
    rows = [sum(pairs[i : i + columns], ()) for i in range(0, len(pairs), columns)]
    headers = ["category", "AP"] * min(columns, len(pairs))
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f")
