"""COCO's average precision."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from loguru import logger
from tabulate import tabulate

from cvpods.evaluation.evaluator import DatasetEvaluator
from cvpods.evaluation.provenance import report_lines
from cvpods.evaluation.registry import EVALUATOR
from cvpods.structures import BoxMode
from cvpods.utils import comm
from cvpods.utils.errors import DataError

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluate_boxes(
    ground_truth: dict[str, Any], detections: list[dict[str, Any]], max_detections: int = 100
) -> tuple[dict[str, float], dict[str, float], str]:
    """COCO's box metrics, by faster-coco-eval: pycocotools' numbers in a fraction of its time.

    Args:
        ground_truth: in COCO's json format.
        detections: in COCO's result format; boxes xywh.
        max_detections: best detections per image and class that count.

    Returns:
        metrics AP, AP50, AP75, APs, APm, APl in percent (NaN where a size does not occur),
        AP of each class, and COCO's summary as text. Without detections, every AP is 0.
    """
    printed = io.StringIO()
    evaluation, categories = match_boxes(ground_truth, detections, max_detections, printed.write)
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
    # The twelve lines that COCO's own code prints.
    lines = printed.getvalue().replace(" Average", "\n Average").splitlines()
    summary = "\n".join([line for line in lines if "Average" in line][:12])
    return dict(zip(METRICS, values, strict=True)), per_class, summary


def match_boxes(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    max_detections: int = 100,
    print_function: Callable[[str], Any] = lambda text: None,
) -> tuple[COCOeval_faster, list[str]]:
    """COCO's evaluation, accumulated, and the class names in its order; see evaluate_boxes.

    `evaluation.eval` holds "precision" and "scores" as (IoU, recall, class, area, max detections).
    """
    categories = sorted(ground_truth["categories"], key=lambda c: c["id"])
    annotations = [_complete(a) for a in ground_truth["annotations"]]
    coco_gt = COCO({"info": {}, **ground_truth, "annotations": annotations})
    copies = [dict(detection) for detection in detections]
    coco_dt = coco_gt.loadRes(copies) if copies else COCO(_without_boxes(ground_truth))
    evaluation = _COCOeval(coco_gt, coco_dt, "bbox", print_function=print_function)
    evaluation.params.maxDets = [1, min(10, max_detections), max_detections]
    evaluation.params.catIds = [c["id"] for c in categories]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation, [c["name"] for c in categories]


def iou_index(evaluation: COCOeval_faster, iou: float) -> int:
    """Where an IoU threshold stands in the arrays of `evaluation.eval`."""
    return int(np.argmin(np.abs(evaluation.params.iouThrs - iou)))


class _COCOeval(COCOeval_faster):
    """Ignores what the ground truth marks "ignore", which COCO's code overwrites by "iscrowd"."""

    def _prepare(self) -> None:
        marked = [a for a in self.cocoGt.dataset["annotations"] if a.get("ignore")]
        super()._prepare()
        for annotation in marked:
            annotation["ignore"] = 1


def _complete(annotation: dict[str, Any]) -> dict[str, Any]:
    """A copy with "area" and "iscrowd", which COCODataset does not ask for."""
    _, _, width, height = annotation["bbox"]
    return {"area": width * height, "iscrowd": 0, **annotation}


def _without_boxes(ground_truth: dict[str, Any]) -> dict[str, Any]:
    return {"info": {}, **ground_truth, "annotations": []}


def _mean(precision: np.ndarray) -> float:
    """Mean in percent; -1 marks classes and sizes without ground truth."""
    valid = precision[precision > -1]
    return float(valid.mean() * 100) if valid.size else float("nan")


@EVALUATOR.register(name="coco")
class COCOEvaluator(DatasetEvaluator):
    """Collects detections of all processes, writes them as json, computes AP on rank 0.

    Args:
        dataset_name: for messages and tables.
        meta: the data set's meta; maps classes to category ids and names.
        cfg: reads TEST.DETECTIONS_PER_IMAGE.
        output_dir: coco_instances_results.json goes there.
        ground_truth: COCO's json content; None writes the json only (test-dev).
    """

    def __init__(
        self,
        dataset_name: str,
        meta: Any,
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
        self.distributed = distributed
        self.output_dir = Path(output_dir) if output_dir else None
        self.ground_truth = ground_truth
        self.reset()

    def reset(self) -> None:
        self._detections: list[dict[str, Any]] = []

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        for sample, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            boxes = BoxMode.convert(
                instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
            ).tolist()
            classes = instances.pred_classes.tolist()
            for box, score, label in zip(boxes, instances.scores.tolist(), classes, strict=True):
                if label not in self.category_ids:
                    raise DataError(
                        f"The model predicts class {label}; data set {self.dataset_name!r} has "
                        f"only {len(self.category_ids)} classes."
                    )
                self._detections.append(
                    {
                        "image_id": sample["image_id"],
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
            self.output_dir.mkdir(parents=True, exist_ok=True)
            path = self.output_dir / "coco_instances_results.json"
            path.write_text(json.dumps(detections))
            logger.info(f"Wrote {len(detections)} detections to {path}")
        if self.ground_truth is None:
            logger.info(
                f"{self.dataset_name} has no annotations: its results are for the test server."
            )
            return {}
        if not detections:
            logger.warning(f"No detections at all on {self.dataset_name}: AP is 0.")
        metrics, per_class, summary = evaluate_boxes(
            self.ground_truth, detections, self.max_detections
        )
        tables = f"{_metric_table(metrics)}\n\n{_class_table(per_class)}"
        logger.info(f"Evaluation on {self.dataset_name}:\n{summary}\n\n{tables}")
        if self.output_dir is not None:
            origin = report_lines(self.provenance, self.dataset_name)
            report = f"# {self.dataset_name}\n\n```\n{summary}\n```\n\n{tables}\n{origin}"
            (self.output_dir / "results.md").write_text(report)
        named = {f"AP-{name}": value for name, value in per_class.items()}
        return {"bbox": {**metrics, **named}}


def _metric_table(metrics: dict[str, float]) -> str:
    return tabulate([metrics.values()], headers=metrics.keys(), tablefmt="pipe", floatfmt=".3f")


def _class_table(per_class: dict[str, float], columns: int = 3) -> str:
    """Class and AP pairs, three to a row."""
    pairs = list(per_class.items())
    rows = [sum(pairs[i : i + columns], ()) for i in range(0, len(pairs), columns)]
    headers = ["category", "AP"] * min(columns, len(pairs))
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f")
