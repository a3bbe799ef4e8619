"""NMS recall (FreeAnchor, arXiv:1909.02466): of the objects found, how many does NMS keep?"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from matplotlib.figure import Figure
from tabulate import tabulate
from torch import Tensor
from torchvision.ops import box_convert

from cvpods.checkpoint.atomic import write_file
from cvpods.evaluation.evaluator import DatasetEvaluator
from cvpods.evaluation.provenance import ENTRY, report_lines
from cvpods.structures import geometry
from cvpods.utils import comm
from cvpods.utils.errors import DataError

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(9))
# Pairs of boxes that are compared at once: 64 MiB a table.
PAIRS_AT_ONCE = 2**24


def best_iou(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    """(M,) highest IoU of each of `gt_boxes` (M, 4) over `boxes` (J, 4), classes aside; 0 for none.

    Boxes are xyxy in pixels.
    """
    best = gt_boxes.new_zeros(len(gt_boxes))
    for part in boxes.split(max(1, PAIRS_AT_ONCE // max(1, len(gt_boxes)))):
        if len(part):
            best = torch.maximum(best, geometry.iou(gt_boxes[:, None], part).amax(dim=1))
    return best


class NMSRecallEvaluator(DatasetEvaluator):
    """NR(t) = objects of IoU > t after NMS / objects of IoU > t before it; t = .50, .55, ... .90.

    The IoU of an object is its highest over all boxes of an image, whatever their class. NR is at
    most 1, because what NMS leaves is part of what it gets; nothing found counts as 0.

    Differs from the published code: boxes have their true width (no "+ 1"), and IoU is computed in
    the original image, where it is what it was in the resized one. Crowds count on neither side.

    Args:
        dataset_name: for messages and tables.
        ground_truth: COCO's json content.
        output_dir: nms_recall.json, nms_recall.md and nms_recall.png go there.

    Raises:
        DataError: the data set has no annotations.
    """

    def __init__(
        self,
        dataset_name: str,
        ground_truth: dict[str, Any] | None,
        output_dir: str | Path | None = None,
    ) -> None:
        if ground_truth is None:
            raise DataError(f"NMS recall needs annotations, which {dataset_name!r} does not have.")
        self.dataset_name = dataset_name
        self.output_dir = Path(output_dir) if output_dir else None
        self.boxes: dict[Any, list[list[float]]] = defaultdict(list)
        for annotation in ground_truth["annotations"]:
            if not annotation.get("iscrowd", 0):
                self.boxes[annotation["image_id"]].append(annotation["bbox"])
        self.reset()

    def reset(self) -> None:
        self._found = {side: [0] * len(THRESHOLDS) for side in ("before", "after")}

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Count the objects of a batch; `outputs` as of PreAndPostNMS."""
        limits = torch.tensor(THRESHOLDS)
        for sample, output in zip(inputs, outputs, strict=True):
            boxes = torch.tensor(self.boxes.get(sample["image_id"], []), dtype=torch.float32)
            boxes = box_convert(boxes.reshape(-1, 4), "xywh", "xyxy")
            for side, counts in self._found.items():
                found = output[side].pred_boxes.tensor
                iou = best_iou(boxes.to(found.device), found).cpu()
                for i, count in enumerate((iou[:, None] > limits).sum(dim=0).tolist()):
                    counts[i] += count

    def evaluate(self) -> dict[str, dict[str, float]]:
        parts = comm.gather(self._found)
        if not comm.is_main_process():
            return {}
        before, after = (
            [sum(counts) for counts in zip(*(part[side] for part in parts), strict=True)]
            for side in ("before", "after")
        )
        ratios = [a / max(1, b) for a, b in zip(after, before, strict=True)]
        mean = sum(ratios) / len(ratios)
        at = {f"NR@{t:.2f}": ratios[THRESHOLDS.index(t)] * 100 for t in (0.5, 0.6, 0.7, 0.8, 0.9)}
        results = {"NR": mean * 100, **at}
        table = tabulate(
            [results.values()], headers=results.keys(), tablefmt="pipe", floatfmt=".1f"
        )
        logger.info(f"NMS recall on {self.dataset_name}, in percent:\n{table}")
        if self.output_dir is not None:
            self._write(ratios, before, after, mean, table)
        return {"nms_recall": results}

    def _write(
        self, ratios: list[float], before: list[int], after: list[int], mean: float, table: str
    ) -> None:
        content = {
            "thresholds": list(THRESHOLDS),
            "ratios": ratios,
            "mean": mean,
            "found_before": before,
            "found_after": after,
            ENTRY: self.provenance,
        }
        text = json.dumps(content, indent=1) + "\n"
        write_file(self.output_dir / "nms_recall.json", text.encode())
        rows = list(zip(THRESHOLDS, before, after, [r * 100 for r in ratios], strict=True))
        headers = ["IoU >", "objects before NMS", "after NMS", "NR (%)"]
        detail = tabulate(rows, headers, "pipe", floatfmt=(".2f", "d", "d", ".1f"))
        title = f"NMS recall on {self.dataset_name}"
        origin = report_lines(self.provenance, self.dataset_name)
        text = f"# {title}\n\n{table}\n\n{detail}\n{origin}"
        write_file(self.output_dir / "nms_recall.md", text.encode())
        picture = io.BytesIO()
        _plot(ratios, mean, title).savefig(picture, dpi=120, format="png")
        write_file(self.output_dir / "nms_recall.png", picture.getvalue())
        logger.info(f"Wrote nms_recall.json, .md and .png to {self.output_dir}")


def _plot(ratios: Sequence[float], mean: float, title: str) -> Figure:
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(THRESHOLDS, [ratio * 100 for ratio in ratios], marker="o", color="#0072B2")
    axes.set(xlabel="IoU threshold", ylabel="NMS recall (%)", ylim=(0, 103))
    axes.set_title(f"{title}: mean {mean * 100:.1f}")
    axes.grid(alpha=0.3)
    return figure
