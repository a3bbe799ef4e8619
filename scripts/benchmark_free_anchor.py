"""FreeAnchor's loss beside the loop-per-image version of tests/reference, in one run.

    python scripts/benchmark_free_anchor.py              # 800 x 1216, batch 2, 27 and 240 boxes
    python scripts/benchmark_free_anchor.py --crowd      # 1,000 boxes in one image of 800 x 1344

Times are medians of forward + backward, both sides in turn; memory is the growth of the process at
its peak (on a GPU: of the allocator), with the inputs outside and the gradients inside.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmark import compare_sides, loss_benchmark, memory, random_targets, timed  # noqa: E402

from cvpods.modeling.anchor_generator import AnchorGrid  # noqa: E402
from cvpods_ext.methods.free_anchor import free_anchor_loss  # noqa: E402
from tests.reference.free_anchor import free_anchor_loss_per_image  # noqa: E402

NUM_CLASSES = 80
STRIDES = (8, 16, 32, 64, 128)


def make_anchors(height: int, width: int) -> Tensor:
    """Nine anchors per location of P3 - P7."""
    sizes = [[4 * s * 2 ** (k / 3) for k in range(3)] for s in STRIDES]
    grid = AnchorGrid(sizes=sizes, aspect_ratios=[[0.5, 1.0, 2.0]], strides=STRIDES)
    maps = [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in STRIDES]
    return torch.cat(grid.grid(maps))


def make_inputs(images: int, anchors: Tensor, boxes: int, device: str) -> tuple:
    """Outputs as at the start of training; boxes as small and large as COCO's."""
    torch.manual_seed(0)
    logits = torch.randn(images, len(anchors), NUM_CLASSES) * 0.1 - 3.9
    deltas = torch.randn(images, len(anchors), 4) * 0.1
    targets = [target.to(device) for target in random_targets(boxes, images)]
    return (
        logits.to(device).requires_grad_(),
        deltas.to(device).requires_grad_(),
        anchors.to(device),
        [target.gt_boxes.tensor for target in targets],
        [target.gt_classes for target in targets],
    )


def step(loss: Callable, inputs: Sequence) -> Tensor:
    """Forward and backward; returns the loss."""
    total = sum(loss(*inputs).values())
    torch.autograd.grad(total, inputs[:2])
    return total.detach()


def compare(boxes: int, repeats: int, device: str) -> None:
    inputs = make_inputs(2, make_anchors(800, 1216), boxes, device)
    sides = {
        "ours": lambda: step(free_anchor_loss, inputs),
        "reference": lambda: step(free_anchor_loss_per_image, inputs),
    }
    compare_sides(f"{device}, {boxes} boxes an image", sides, repeats, device)


def crowd(repeats: int, device: str) -> None:
    inputs = make_inputs(1, make_anchors(800, 1344), 1000, device)

    def work() -> Tensor:
        return step(free_anchor_loss, inputs)

    value, duration = work().item(), statistics.median(timed(work, device) for _ in range(repeats))
    print(
        f"{device}, 1,000 boxes in one image of 800 x 1344 ({len(inputs[2]):,} anchors): "
        f"loss {value:.4f}, {duration:.3f} s, peak {memory(work, device):.0f} MiB"
    )


if __name__ == "__main__":
    loss_benchmark("Measure FreeAnchor's loss.", compare, crowd)
