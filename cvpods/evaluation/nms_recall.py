"""NMS recall (FreeAnchor, arXiv:1909.02466): the share of detected objects that NMS keeps."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from tabulate import tabulate
from torch import Tensor

from cvpods.checkpoint.atomic import write_file
from cvpods.evaluation.evaluator import DatasetEvaluator
from cvpods.evaluation.provenance import ENTRY, report_lines
from cvpods.structures import BoxMode, geometry
from cvpods.structures.samples import Sample
from cvpods.utils import comm
from cvpods.utils.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(9))
# Number of pairs of boxes that are compared at once: 64 MiB of IoU values.
PAIRS_AT_ONCE = 2**24


def best_iou(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    """Return the highest IoU of each ground-truth box over all `boxes`, whatever their class.

    Args:
        gt_boxes: (M, 4) xyxy in pixels.
        boxes: (J, 4) xyxy in pixels.

    Returns:
        (M,); 0 if `boxes` is empty.
    """
    best = gt_boxes.new_zeros(len(gt_boxes))
    for part in boxes.split(max(1, PAIRS_AT_ONCE // max(1, len(gt_boxes)))):
        if len(part):
            best = torch.maximum(best, geometry.iou(gt_boxes[:, None], part).amax(dim=1))
    return best


class NMSRecallEvaluator(DatasetEvaluator):
    """Evaluator of NMS recall.

    NR(t) = objects with IoU > t after NMS / objects with IoU > t before NMS; t = .50, .55, ... .90.

    The IoU of an object is its highest IoU over all boxes of an image, whatever their class. NR is
    at most 1, because NMS returns a subset of its input; it is 0 if no object has an IoU > t.

    Differs from the published code: boxes have their true width (no "+ 1"), and IoU is computed in
    the original image, where it has the same value as in the resized image. Crowds are left out.

    Args:
        dataset_name: name for messages and tables.
        ground_truth: COCO's json content.
        output_dir: folder for nms_recall.json, nms_recall.md and nms_recall.png.

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
            raise DataError(
                f"NMS recall needs annotations, which data set {dataset_name!r} does not have."
            )
        self.dataset_name = dataset_name
        self.output_dir = Path(output_dir) if output_dir else None
        self.boxes: dict[int | str, list[list[float]]] = defaultdict(list)
        for annotation in ground_truth["annotations"]:
            if not annotation.get("iscrowd", 0):
                self.boxes[annotation["image_id"]].append(annotation["bbox"])
        self.reset()

    def reset(self) -> None:
        # Number of detected objects before and after NMS, for each threshold.
        self._detected = {side: [0] * len(THRESHOLDS) for side in ("before", "after")}

    def process(self, inputs: Sequence[Sample], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Count the detected objects of a batch.

        Args:
            outputs: {"before": Instances, "after": Instances} of each image, see PreAndPostNMS.
        """
        limits = torch.tensor(THRESHOLDS)
        for sample, output in zip(inputs, outputs, strict=True):
            boxes = torch.tensor(self.boxes.get(sample["image_id"], []), dtype=torch.float32)
            boxes = BoxMode.convert(boxes.reshape(-1, 4), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            for side, counts in self._detected.items():
                detected = output[side].pred_boxes.tensor
                iou = best_iou(boxes.to(detected.device), detected).cpu()
                for i, count in enumerate((iou[:, None] > limits).sum(dim=0).tolist()):
                    counts[i] += count

    def evaluate(self) -> dict[str, dict[str, float]]:
        parts = comm.gather(self._detected)
        if not comm.is_main_process():
            return {}
        before, after = (
            [sum(counts) for counts in zip(*(part[side] for part in parts), strict=True)]
            for side in ("before", "after")
        )
        ratios = [a / max(1, b) for a, b in zip(after, before, strict=True)]
        at = {f"NR@{t:.2f}": ratios[THRESHOLDS.index(t)] * 100 for t in (0.5, 0.6, 0.7, 0.8, 0.9)}
        results = {"NR": sum(ratios) / len(ratios) * 100, **at}
        table = tabulate(
            [results.values()], headers=results.keys(), tablefmt="pipe", floatfmt=".1f"
        )
        logger.info(f"NMS recall on {self.dataset_name}, in percent:\n{table}")
        if self.output_dir is not None:
            self._write(self.output_dir, ratios, before, after, table)
        return {"nms_recall": results}

    def _write(
        self, folder: Path, ratios: list[float], before: list[int], after: list[int], table: str
    ) -> None:
        mean = sum(ratios) / len(ratios)
        content = {
            "thresholds": list(THRESHOLDS),
            "ratios": ratios,
            "mean": mean,
            "found_before": before,
            "found_after": after,
            ENTRY: self.provenance,
        }
        text = json.dumps(content, indent=1) + "\n"
        write_file(folder / "nms_recall.json", text.encode())
        rows = list(zip(THRESHOLDS, before, after, [r * 100 for r in ratios], strict=True))
        headers = ["IoU >", "objects before NMS", "after NMS", "NR (%)"]
        detail = tabulate(rows, headers, "pipe", floatfmt=(".2f", "d", "d", ".1f"))
        title = f"NMS recall on {self.dataset_name}"
        origin = report_lines(self.provenance, self.dataset_name)
        text = f"# {title}\n\n{table}\n\n{detail}\n{origin}"
        write_file(folder / "nms_recall.md", text.encode())
        picture = io.BytesIO()
        _plot(ratios, mean, title).savefig(picture, dpi=120, format="png")
        write_file(folder / "nms_recall.png", picture.getvalue())
        logger.info(f"Wrote nms_recall.json, .md and .png to {folder}")


def _plot(ratios: Sequence[float], mean: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(THRESHOLDS, [ratio * 100 for ratio in ratios], marker="o", color="#0072B2")
    axes.set(xlabel="IoU threshold", ylabel="NMS recall (%)", ylim=(0, 103))
    axes.set_title(f"{title}: mean {mean * 100:.1f}")
    axes.grid(alpha=0.3)
    return figure
