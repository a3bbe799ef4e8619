"""Time and memory of assigning many boxes, in RetinaNet, FCOS and the comparisons of ATSS.

    python scripts/benchmark_assign.py              # 5,000 boxes in an image of 800 x 1344
    python scripts/benchmark_assign.py --boxes 5000 --size 160x160 --methods retinanet

Each method runs in its own process. Memory is the growth of that process's peak resident memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cvpods.configs import FCOSConfig, RetinaNetConfig
from cvpods.modeling.meta_arch import FCOS, RetinaNet
from cvpods.structures import Boxes, Instances
from cvpods_ext.methods.atss.detector import make_assigner

STRIDES = (8, 16, 32, 64, 128)
METHODS = ("retinanet", "fcos", "ATSS", "IoU", "SSC", "TOPK")


def random_boxes(count: int, height: int, width: int) -> Tensor:
    """Draw boxes (M, 4) with sides of 8 to 128 pixels anywhere in the image."""
    torch.manual_seed(0)
    sides = 8 + torch.rand(count, 2) * 120
    low = torch.rand(count, 2) * (torch.tensor([width, height]) - sides).clamp(min=0)
    return torch.cat([low, low + sides], dim=1)


def feature_maps(height: int, width: int) -> list[Tensor]:
    """Return an empty map (1, 0, H_l, W_l) for each level; only its size is read."""
    return [torch.empty(1, 0, -(-height // s), -(-width // s)) for s in STRIDES]


def build(method: str, height: int, width: int, boxes: Tensor) -> Callable[[], Any]:
    """Return the assignment to measure, as a function without arguments."""
    maps = feature_maps(height, width)
    target = Instances((height, width), gt_boxes=Boxes(boxes))
    target.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    if method == "retinanet":
        retinanet = RetinaNet(on_cpu(RetinaNetConfig()))
        return partial(retinanet.assign, torch.cat(retinanet.priors(maps)), target)
    if method == "fcos":
        fcos = FCOS(on_cpu(FCOSConfig()))
        return partial(fcos.assign, fcos.priors(maps), target)
    sides = [8.0 * stride for stride in STRIDES]
    anchors = [square_anchors(m, s, side) for m, s, side in zip(maps, STRIDES, sides, strict=True)]
    assigner = make_assigner(method, 9, sides)
    return partial(assigner, torch.cat(anchors), [len(level) for level in anchors], boxes)


def on_cpu(config: Any) -> Any:
    """Complete a base config: a ResNet-50 on the CPU."""
    config.MODEL.DEVICE, config.MODEL.RESNETS.DEPTH = "cpu", 50
    return config


def square_anchors(level: Tensor, stride: int, side: float) -> Tensor:
    """Return one square anchor for each cell of a map: (R_l, 4)."""
    y, x = torch.meshgrid(*(torch.arange(n) * stride for n in level.shape[-2:]), indexing="ij")
    middle = torch.stack([x, y, x, y], dim=-1).reshape(-1, 4) + stride / 2
    return middle + torch.tensor([-side, -side, side, side]) / 2


def measure(method: str, height: int, width: int, count: int) -> tuple[float, float]:
    """Return the time of one call in seconds and the growth of the peak memory in MiB."""
    torch.set_num_threads(1)
    work = build(method, height, width, random_boxes(count, height, width))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=5000, help="boxes in the image")
    parser.add_argument("--size", default="800x1344", help="height x width of the image")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="all")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    print("| method | time | growth of peak memory |\n| --- | --- | --- |")
    for method in args.methods:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, mib = pool.apply(measure, (method, height, width, args.boxes))
        print(f"| {method} | {seconds:.2f} s | {mib:,.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
