#!/usr/bin/env bash
# One would expect torchmetrics' MeanAveragePrecision(backend="pycocotools") to give pycocotools' AP.
# torchmetrics 1.9.0 builds the ten IoU thresholds in float32 and hands them to the backend as floats, so
# that four of them (0.55, 0.6, 0.8, 0.85) become slightly larger than in pycocotools 2.0.11. A detection
# whose IoU is exactly one of these, which boxes of whole pixels often have, misses its threshold: AP is
# 10 points lower for that object. Both backends, pycocotools and faster_coco_eval, show it with torch
# 2.14.1. Seen on 2026-11-27.
# It matters to everyone who compares AP logged in training by torchmetrics with AP of pycocotools.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.14.1 \
    torchvision==0.29.1 pycocotools==2.0.11 faster-coco-eval==1.8.0

cat > check.py <<'PYTHON'
import contextlib
import io

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision


def pycocotools_ap(width):
    dataset = COCO()
    dataset.dataset = {
        "info": {},
        "images": [{"id": 1, "file_name": "1.jpg", "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 100, 100], "area": 10000,
             "iscrowd": 0}
        ],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, width, 100], "score": 0.9}]
    with contextlib.redirect_stdout(io.StringIO()):
        dataset.createIndex()
        evaluation = COCOeval(dataset, dataset.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0]


def torchmetrics_ap(width, backend):
    metric = MeanAveragePrecision(box_format="xywh", backend=backend)
    label = torch.tensor([1])
    found = {"boxes": torch.tensor([[0.0, 0.0, width, 100.0]]), "scores": torch.tensor([0.9])}
    truth = {"boxes": torch.tensor([[0.0, 0.0, 100.0, 100.0]])}
    metric.update([{**found, "labels": label}], [{**truth, "labels": label}])
    return 100 * metric.compute()["map"].item()


for width in range(50, 100, 5):
    backends = [torchmetrics_ap(width, name) for name in ("pycocotools", "faster_coco_eval")]
    print(f"IoU 0.{width}: pycocotools {pycocotools_ap(width):.0f}, torchmetrics", end=" ")
    print(" and ".join(f"{ap:.0f}" for ap in backends))
PYTHON

env/bin/python check.py > seen.txt
cat seen.txt
diff - seen.txt <<'SEEN'
IoU 0.50: pycocotools 10, torchmetrics 10 and 10
IoU 0.55: pycocotools 20, torchmetrics 10 and 10
IoU 0.60: pycocotools 30, torchmetrics 20 and 20
IoU 0.65: pycocotools 40, torchmetrics 40 and 40
IoU 0.70: pycocotools 50, torchmetrics 50 and 50
IoU 0.75: pycocotools 60, torchmetrics 60 and 60
IoU 0.80: pycocotools 70, torchmetrics 60 and 60
IoU 0.85: pycocotools 80, torchmetrics 70 and 70
IoU 0.90: pycocotools 90, torchmetrics 90 and 90
IoU 0.95: pycocotools 100, torchmetrics 100 and 100
SEEN
